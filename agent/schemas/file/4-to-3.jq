# exact but /object_type /creator /status /visibility /flags
# Version 3 takes the header as properties that it does not know, so it is there again on the way forth.
.
