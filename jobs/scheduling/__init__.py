"""Pure decisions: who starts where, and why the others wait. No database, no Redis, no clock of its own."""
