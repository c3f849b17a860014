# expand
# The header that newer objects have; nothing is known of who made an imported one, and what was not said public is private.
.object_type //= "file"
| .creator //= "unknown"
| .status //= "active"
| .visibility //= "private"
| .flags //= []
