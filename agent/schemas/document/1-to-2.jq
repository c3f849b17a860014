# expand
# Every document gets the whole header: what addressing said stands in for who and when, flags in one text become a list, what was
# not said public is private. The title is split from the first heading, whose first part is the address.
.creator //= (.addressed_by // "unknown")
| if .created == null and .addressed_at != null then .created = .addressed_at else . end
| .visibility //= "private"
| .flags |= (if type == "array" then . elif type == "string" then [split(",")[] | trim | select(. != "")] else [] end)
| .title //= ([.content | split("\n")[] | select(startswith("# "))][0] // "" | ltrimstr("# ") | split(" - ") | last // "" | trim)
| .octets = (.content | utf8bytelength)
