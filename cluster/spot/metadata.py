"""The metadata services of EC2 (IMDSv2) and Compute Engine, which only the machine itself can reach."""

import os
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException
from typing import Protocol, assert_never
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from cluster.spot.notice import Cloud, MetadataError, Notice, ec2_notice, gce_notice

# The names that the clouds' own libraries read.
EC2_VARIABLE, GCE_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT", "GCE_METADATA_HOST"
EC2_ENDPOINT, GCE_HOST = "http://169.254.169.254", "metadata.google.internal"
# It is on the same machine or its host: what takes longer is not there.
TIMEOUT_S = 2.0
TOKEN_S = 21_600


class Metadata(Protocol):
    """Ask a cloud about the machine that asks."""

    def notice(self) -> Notice | None:
        """Return the notice that the machine has got, None where it has none; raise MetadataError."""


def metadata_of(cloud: Cloud) -> Metadata:
    """Return the service of a cloud, at the address that the environment gives or the usual one."""
    match cloud:
        case "ec2":
            return Ec2Metadata(os.environ.get(EC2_VARIABLE) or EC2_ENDPOINT)
        case "gce":
            return GceMetadata(os.environ.get(GCE_VARIABLE) or GCE_HOST)
        case _:
            assert_never(cloud)


class Ec2Metadata:
    """Ask EC2, which wants a session token with each request (IMDSv2)."""

    def __init__(self, endpoint: str) -> None:
        self._url = f"{endpoint.rstrip('/')}/latest"
        self._token: str | None = None

    def notice(self) -> Notice | None:
        """Return what stands under spot/instance-action; there is nothing where the machine may stay."""
        if self._token is None:
            seconds = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
            self._token = _ask(f"{self._url}/api/token", seconds, method="PUT")
        try:
            action = _ask(f"{self._url}/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token})
        except MetadataError as error:
            match _status(error):
                case HTTPStatus.NOT_FOUND:
                    return None
                case HTTPStatus.UNAUTHORIZED:
                    # Too old, or of a service that has been started anew: the next look begins with another.
                    self._token = None
            raise
        return ec2_notice(action, time.time())


class GceMetadata:
    """Ask Compute Engine."""

    def __init__(self, host: str) -> None:
        self._url = f"http://{host}/computeMetadata/v1/instance/preempted"

    def notice(self) -> Notice | None:
        """Return whether the machine is preempted."""
        return gce_notice(_ask(self._url, {"Metadata-Flavor": "Google"}), time.time())


def _ask(url: str, headers: Mapping[str, str], method: str = "GET") -> str:
    # Never by a proxy: it would ask about the machine that it runs on.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(Request(url, headers=dict(headers), method=method), timeout=TIMEOUT_S) as answer:
            return str(answer.read().decode(errors="replace"))
    except HTTPError as error:
        with error:
            raise MetadataError(f"{url} answers {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise MetadataError(f"{url} does not answer: {getattr(error, 'reason', error)}") from error


def _status(error: MetadataError) -> int | None:
    return error.__cause__.code if isinstance(error.__cause__, HTTPError) else None
