"""What all processes share. Imported before numpy everywhere, so it also decides how many threads numpy's BLAS makes."""

import os

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # many small products in many processes: threads would only fight
