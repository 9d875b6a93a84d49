"""info: every migration and its state."""

from tsrollup.flyway.configuration import Configuration
from tsrollup.flyway.results import InfoResult
from tsrollup.flyway.schemas import non_empty_schemas
from tsrollup.flyway.session import open_session
from tsrollup.flyway.states import current


def info(configuration: Configuration) -> InfoResult:
    """The migrations, applied and local, in Flyway's order."""
    with open_session(configuration) as session:
        with session.events("Info"):
            infos = session.infos()
        # Unlike every other callback it does not find the default schema in its search path.
        session.database.use_path_of_login()
        session.callback_within("afterInfoOperationFinish")
        session.database.restore_session()
        newest = current(infos)
        return InfoResult(
            database=session.database.name,
            schema_name=", ".join(session.schemas),
            schema_version=str(newest.version) if newest and newest.version else None,
            all_schemas_empty=not non_empty_schemas(session),
            migrations=infos,
        )
