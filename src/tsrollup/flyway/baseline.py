"""baseline: start the history of a database that already holds something."""

import logging

from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.errors import FlywayError
from tsrollup.flyway.names import Version
from tsrollup.flyway.results import BaselineResult
from tsrollup.flyway.schemas import create_history, create_missing_schemas
from tsrollup.flyway.session import Session, open_session

log = logging.getLogger(__name__)


def baseline(configuration: Configuration) -> BaselineResult:
    """Write a BASELINE row; migrations up to its version will not be run."""
    with open_session(configuration) as session:
        created = (
            create_missing_schemas(session, with_history=False)
            if configuration.create_schemas
            else []
        )
        written = write_baseline(session)
        if created:
            with session.history.transaction():
                session.history.add_schemas(created)
        return BaselineResult(
            session.database.name, session.default_schema, configuration.baseline_version, written
        )


def write_baseline(session: Session) -> bool:
    """False when the very same baseline is there already."""
    configuration, history = session.configuration, session.history
    version = Version.parse(configuration.baseline_version)
    description = configuration.baseline_description
    with session.events("Baseline"):
        create_history(session)
        with history.transaction():
            rows = history.applied()
            for row in rows:
                if row.type == "BASELINE":
                    if row.version == version and row.description == description:
                        log.info(
                            "Schema history %s has this baseline already: %s", history, version
                        )
                        return False
                    raise FlywayError(
                        f"cannot baseline schema history {history} with ({version},{description}): "
                        f"it has the baseline ({row.version},{row.description})"
                    )
            if rows:
                raise FlywayError(
                    f"cannot baseline schema history {history}: it already contains migrations"
                )
            history.add(version, description, "BASELINE", description)
            log.info("Schema %s is baselined with version %s", session.default_schema, version)
    return True
