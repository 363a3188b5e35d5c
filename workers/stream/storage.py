"""One file into one bucket (S3 and what speaks like it), by boto3; blocking, for threads.

Runs in: threads of stream.
Owns: the client's settings, the judgement of where it connects to, the location given out.

Rules
1. An endpoint of an API caller's is judged like any URL of theirs (`shm/reach.py`), at each connection, by the address connected
   to. botocore has no place for that, so the connections of its pool are exchanged; a test sees to it that this holds.
2. A custom endpoint is addressed by path. Without keys in the order the AWS chain decides.
3. boto3 sends large files in parts and tries twice by itself; everything beyond is `upload.py`.
4. Stored is what the answer names with its ETag.
"""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
from boto3.exceptions import Boto3Error
from botocore.awsrequest import AWSHTTPConnection, AWSHTTPConnectionPool, AWSHTTPSConnection, AWSHTTPSConnectionPool
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shm.errors import PeerError
from shm.reach import Forbidden, Reach, plain_address

CONNECT_S = 5.0
READ_S = 30.0
CONTENT_TYPE = "audio/wav"
# The description of S3, a megabyte of JSON, is read once: reading it keeps the interpreter from the audio of this process.
_MODELS = botocore.loaders.create_loader()
_STORING = ("PutObject", "UploadPart", "CompleteMultipartUpload")


class StorageError(PeerError):
    """The text says why and holds no key."""


@dataclass(frozen=True)
class Bucket:
    name: str
    region: str = ""
    endpoint: str = ""
    prefix: str = ""
    access_key: str = ""
    secret_key: str = ""

    def location(self, path: str) -> str:
        """As given out to callers."""
        return f"s3://{self.name}/{self.key(path)}"

    def key(self, path: str) -> str:
        """Prefix and base name, literally."""
        return self.prefix + Path(path).name


def put(bucket: Bucket, path: str, reach: Reach) -> None:
    """Raises StorageError; OSError when the file cannot be read."""
    try:
        _client(bucket, reach).upload_file(path, bucket.name, bucket.key(path), ExtraArgs={"ContentType": CONTENT_TYPE})
    except (Boto3Error, BotoCoreError, ClientError, Forbidden, ValueError) as fault:
        raise StorageError(f"s3: {_words(fault, bucket)}") from None


def is_there(bucket: Bucket, path: str, reach: Reach) -> bool:
    """Whether the object exists; False also when nobody will say."""
    try:
        _client(bucket, reach).head_object(Bucket=bucket.name, Key=bucket.key(path))
    except (Boto3Error, BotoCoreError, ClientError, Forbidden, ValueError):
        return False
    return True


def _client(bucket: Bucket, reach: Reach) -> Any:
    session = botocore.session.Session()
    session.register_component("data_loader", _MODELS)
    client = boto3.session.Session(botocore_session=session).client(
        "s3",
        region_name=bucket.region or None,
        endpoint_url=bucket.endpoint or None,
        aws_access_key_id=bucket.access_key or None,
        aws_secret_access_key=bucket.secret_key or None,
        config=Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"mode": "standard", "total_max_attempts": 2},
            s3={"addressing_style": "path"} if bucket.endpoint else None,
            # Checksums in trailers are younger than most of what calls itself S3-compatible.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    for operation in _STORING:
        client.meta.events.register(f"after-call.s3.{operation}", _check_whole)
    if bucket.endpoint:
        host = urlsplit(bucket.endpoint).hostname or ""
        if (address := plain_address(host)) is not None:  # with a proxy nobody else would look at it
            reach.check(host, address)
        _guard(client, reach)
    return client


def _check_whole(parsed: dict[str, Any], **_: Any) -> None:
    """A connection that breaks behind "200" is a success to the library, and the local file would be removed."""
    if "Error" not in parsed and "ETag" not in parsed:
        raise StorageError("s3: the answer broke off")


def _guard(client: Any, reach: Reach) -> None:
    class Plain(_Judged, AWSHTTPConnection):  # type: ignore[misc]
        judge = reach

    class Secure(_Judged, AWSHTTPSConnection):  # type: ignore[misc]
        judge = reach

    class PlainPool(AWSHTTPConnectionPool):  # type: ignore[misc]
        ConnectionCls = Plain

    class SecurePool(AWSHTTPSConnectionPool):  # type: ignore[misc]
        ConnectionCls = Secure

    pools = client._endpoint.http_session._manager  # noqa: SLF001 - rule 1
    pools.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


class _Judged:
    """A connection that goes to the address that was judged."""

    judge: Reach
    _dns_host: str
    port: int

    def _new_conn(self) -> socket.socket:
        name = self._dns_host
        answers = socket.getaddrinfo(name.strip("[]"), self.port, type=socket.SOCK_STREAM)
        for answer in answers:
            address = plain_address(str(answer[4][0]))
            if address is None:
                raise Forbidden(f"{name} leads nowhere")
            self.judge.check(name, address)
        self._dns_host = str(answers[0][4][0])
        try:
            return super()._new_conn()  # type: ignore[misc, no-any-return]
        finally:
            self._dns_host = name  # TLS and Host go by the name


def _words(fault: Exception, bucket: Bucket) -> str:
    if isinstance(fault, ClientError):
        error = fault.response.get("Error", {})
        return f"{error.get('Code', 'error')} {error.get('Message', '')}".strip()[:200]
    cause: BaseException | None = fault
    while cause is not None:
        if isinstance(cause, Forbidden):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    text = str(fault).replace(bucket.secret_key or "\0", "…").replace(bucket.access_key or "\0", "…")
    return text[:200]
