# contract
# The names of the record go; a member of data that no version knows stays where it is.
if (.data | type) == "object" then .data |= del(.name, .type, .path, .content, .content_file, .content_preview) else . end
| if .data == {} then del(.data) else . end
| if .type_address == null then del(.type_address) else . end
| if .deleted_at == null then del(.deleted_at) else . end
| del(.type, .created_at, .updated_at, .source_type, .source_id)
