# exact but /creator /created /visibility /flags /octets
# Version 1 takes all of it. A title that says what the content says follows the content again on the way forth, as the length does.
def title: [.content | split("\n")[] | select(startswith("# "))][0] // "" | ltrimstr("# ") | split(" - ") | last // "" | trim;
if .title == title then del(.title) else . end
| del(.octets)
