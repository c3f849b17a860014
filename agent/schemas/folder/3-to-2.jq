# exact but /type_address /deleted_at /source_type /source_id
# The record is made anew of its parts; a null that said nothing may be there now or be away.
.type //= "folder"
| .type_address //= null
| .deleted_at //= null
| .created_at = .created
| .updated_at = .updated
| .data = (({name, type: "folder", path}
    + (.path | if test("^[A-Za-z]:/") then {path: gsub("/"; "\\")} else {} end)
    + if .content != null then {content} else {} end
    + if .content_file != null then {content_file} else {} end
    + if .content_preview != null then {content_preview} else {} end)
    as $data | (.data // {}) + $data)
| if .source.kind != null then
    .source_type = .source.kind
    | .source_id = (.source | if .id == null then null elif .scheme == null then .id else .scheme + ":" + .id end)
  else . end
