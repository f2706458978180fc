"""`python -m banking.streaming.provision`: makes namespace, topics, subscriptions and rights once, and ends.

For a broker with authorisation, where the services themselves may not (`PROVISION_TOPICS=false`). Its token needs to be
one of an administrator of the tenant `public`.
"""

from __future__ import annotations

import asyncio

import structlog

from banking.streaming.access import RIGHTS
from banking.streaming.service import configure_logging
from banking.streaming.settings import ServiceSettings, load_settings
from banking.streaming.topics import ProvisioningError

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 1.0


async def provision(settings: ServiceSettings) -> None:
    """Make what is missing and grant what `RIGHTS` says, waiting for a broker that is not there yet."""
    problem = ""
    async with settings.provisioner() as provisioner:
        while True:
            try:
                await provisioner.ensure()
                await provisioner.grant(RIGHTS)
            except ProvisioningError as error:
                if str(error) != problem:
                    problem = str(error)
                    log.warning("not yet", problem=problem)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return


def main() -> None:
    """Run the job with the settings of the environment."""
    settings = load_settings(ServiceSettings)
    configure_logging(settings.log_level, "provisioner")
    asyncio.run(provision(settings))
    log.info("topics, subscriptions and rights are there")


if __name__ == "__main__":
    main()
