# Version 1 takes all of it; title and length follow the content on the way forth.
del(.title, .octets)
