"""How the official archives become what ``kd.data`` reads: one file a data set, with ``plan(members) -> Plan``."""
