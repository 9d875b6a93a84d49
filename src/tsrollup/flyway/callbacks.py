"""SQL callbacks: scripts named after the event that runs them."""

EVENTS = tuple(
    """beforeClean afterClean afterCleanError
    beforeInfo afterInfo afterInfoError afterInfoOperationFinish
    beforeValidate afterValidate afterValidateError
    beforeBaseline afterBaseline afterBaselineError
    beforeRepair afterRepair afterRepairError
    beforeMigrate afterMigrate afterMigrateError afterMigrateApplied afterMigrateOperationFinish
    beforeEachMigrate afterEachMigrate afterEachMigrateError
    beforeEachMigrateStatement afterEachMigrateStatement afterEachMigrateStatementError
    afterVersioned beforeRepeatables createSchema beforeCreateSchema
    beforeConnect afterConnect
    beforeUndo afterUndo afterUndoError
    beforeEachUndo afterEachUndo afterEachUndoError
    beforeEachUndoStatement afterEachUndoStatement afterEachUndoStatementError""".split()
)
