# exact but /addressed_at /addressed_by
# The old name again. What addressing said is in creator and created.
if .text != null then .content = .text else . end
| del(.text)
