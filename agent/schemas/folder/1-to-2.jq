# expand
# The parts of data come up one level under names of their own; data stays for readers of version 1. Paths get /, times shorter
# names, source_id is split at its first colon, and the length is that of the content: the imported size is often not.
.data as $data
| reduce ("name", "path", "content", "content_file", "content_preview") as $name (.; if $data[$name] != null and .[$name] == null then .[$name] = $data[$name] else . end)
| .path |= gsub("\\\\"; "/")
| if .content != null then .octets = (.content | utf8bytelength) else . end
| .created //= .created_at
| .updated //= .updated_at
| if .source_type != null then
    .source //= ({kind: .source_type}
      + if .source_id == null then {}
        elif .source_id | contains(":") then (.source_id | index(":")) as $at | {scheme: .source_id[:$at], id: .source_id[$at + 1:]}
        else {id: .source_id} end)
  else . end
