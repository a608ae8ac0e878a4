"""The metadata services of EC2 (IMDSv2) and Compute Engine, which only the machine itself can reach."""

import os
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException
from typing import assert_never
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from cluster.spot.notice import Cloud, MetadataError, Notice, ec2_notice, gce_notice

# The variables that the clouds' own libraries read.
EC2_VARIABLE, GCE_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT", "GCE_METADATA_HOST"
EC2_ENDPOINT, GCE_HOST = "http://169.254.169.254", "metadata.google.internal"
# The service is on the same machine or its host, so it answers fast.
TIMEOUT_S = 2.0
TOKEN_S = 21_600


def metadata_of(cloud: Cloud) -> "Metadata":
    """Return the metadata service of a cloud, at the address in the environment or the default one."""
    match cloud:
        case "ec2":
            return Ec2Metadata(os.environ.get(EC2_VARIABLE) or EC2_ENDPOINT)
        case "gce":
            return GceMetadata(os.environ.get(GCE_VARIABLE) or GCE_HOST)
        case _:
            assert_never(cloud)


class Ec2Metadata:
    """The service of EC2, which needs a session token with each request (IMDSv2)."""

    def __init__(self, endpoint: str) -> None:
        self._url = f"{endpoint.rstrip('/')}/latest"
        self._token: str | None = None

    def notice(self) -> Notice | None:
        """Return the notice in spot/instance-action, None if there is none; MetadataError if it does not answer."""
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
                    # Expired, or the service was restarted: the next call gets another token.
                    self._token = None
            raise
        return ec2_notice(action, time.time())


class GceMetadata:
    """The service of Compute Engine."""

    def __init__(self, host: str) -> None:
        self._url = f"http://{host}/computeMetadata/v1/instance/preempted"

    def notice(self) -> Notice | None:
        """Return the notice if the machine is preempted, else None; MetadataError if it does not answer."""
        return gce_notice(_ask(self._url, {"Metadata-Flavor": "Google"}), time.time())


Metadata = Ec2Metadata | GceMetadata


def _ask(url: str, headers: Mapping[str, str], method: str = "GET") -> str:
    # Without a proxy, which would get the metadata of its own machine.
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
