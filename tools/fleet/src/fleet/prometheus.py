"""What a stack's Prometheus knows, asked over its HTTP API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = 10.0


class PrometheusError(Exception):
    """Prometheus did not answer, or refused the query; the message says which."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a query's result.

    Attributes:
        labels: The labels of its series.
        value: The value; NaN where there is none, such as a quantile of nothing.
    """

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that fires or may do so soon.

    Attributes:
        name: Such as `LegPaused`.
        firing: False while it waits for its time.
        summary: What is wrong, in a sentence.
    """

    name: str
    firing: bool
    summary: str


class Prometheus:
    """A client of one Prometheus.

    Args:
        url: Such as `http://127.0.0.1:9090`.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def query(self, expression: str) -> list[Sample]:
        """The present values of a PromQL expression that gives a vector.

        Raises:
            PrometheusError: There is no answer.
        """
        data = await self._get("query", {"query": expression})
        return [Sample(found["metric"], float(found["value"][1])) for found in data["result"]]

    async def alerts(self) -> list[Alert]:
        """The alerts whose expressions are true.

        Raises:
            PrometheusError: There is no answer.
        """
        return [
            Alert(found["labels"]["alertname"], found["state"] == "firing", found["annotations"].get("summary", ""))
            for found in (await self._get("alerts", {}))["alerts"]
        ]

    async def _get(self, path: str, parameters: Mapping[str, str]) -> Any:
        url = f"{self._url}/api/v1/{path}"
        try:
            async with self._http.get(url, params=parameters) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            problem = str(error) or type(error).__name__
            raise PrometheusError(f"Prometheus at {self._url} does not answer: {problem}") from error
        if answer["status"] != "success":
            raise PrometheusError(f"Prometheus refused {parameters}: {answer['error']}")
        return answer["data"]
