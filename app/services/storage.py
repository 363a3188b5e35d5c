"""Where recordings go: the local directory, or a bucket named by the environment or the request (rooms.md A12, media.md 6.5).

Runs in: control. Pure.
Owns: how request and environment are put together, and which endpoint is too open.
"""

from urllib.parse import urlsplit

import msgspec

from app.config import Config
from app.services.requests import Record
from shm.errors import CallerError
from shm.reach import Forbidden, Reach, is_local_host, plain_address

DEFAULT_REGION = "us-east-1"


class Bucket(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    region: str
    endpoint: str = ""
    prefix: str = ""
    access_key: str = ""
    secret_key: str = ""


def storage_of(request: Record, config: Config) -> Bucket | None:
    """The bucket; None = files. Each field of the request overrides its environment counterpart. Raises CallerError."""
    if request.storage == "file":
        return None
    if request.storage == "gcs":
        raise CallerError("storage gcs is not implemented", 501)
    if request.storage != "s3":
        raise CallerError(f"unknown storage {request.storage!r}")
    bucket = Bucket(
        name=request.s3_bucket or config.s3_bucket,
        region=request.s3_region or ("" if request.s3_bucket else config.s3_region) or DEFAULT_REGION,
        endpoint=request.s3_endpoint or config.s3_endpoint,
        prefix=request.s3_prefix or config.s3_prefix,
        access_key=request.s3_access_key,
        secret_key=request.s3_secret_key,
    )
    if not bucket.name:
        raise CallerError("s3_bucket is required: S3_BUCKET is not set")
    if bool(bucket.access_key) != bool(bucket.secret_key):
        raise CallerError("s3_access_key and s3_secret_key: both or neither")
    if bucket.endpoint:
        _check_endpoint(bucket.endpoint, config)
    return bucket


def _check_endpoint(endpoint: str, config: Config) -> None:
    """Names are judged when they are connected to."""
    try:
        url = urlsplit(endpoint)
        host = url.hostname or ""
    except ValueError:
        url, host = urlsplit(""), ""
    if url.scheme not in ("http", "https") or not host:
        raise CallerError("s3_endpoint: an http or https URL")
    if url.scheme == "http" and not config.s3_allow_insecure_endpoint and not is_local_host(host):
        raise CallerError("s3_endpoint: plain http only to local hosts")
    if (address := plain_address(host)) is not None:
        try:
            Reach(private_allowed=config.fetch_allow_private).check(host, address)
        except Forbidden as error:
            raise CallerError(f"s3_endpoint: {error}") from None
