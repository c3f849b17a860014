# contract
# `content` is called `text`; creator and created hold what addressing said.
if .content != null then .text = .content else . end
| del(.content, .addressed_at, .addressed_by)
