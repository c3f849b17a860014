//! Changes settings in a configuration file the way a person does: line by line, comments kept.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Where the librarian answers DNS.
pub(super) const LIBRARIAN_DNS: &str = "listen_dns";
/// Where the librarian's HTTPS listens.
pub(super) const LIBRARIAN_HTTPS: &str = "listen_https";
/// Where an agent serves clients.
pub(super) const AGENT_HTTPS: &str = "listen.https";
/// Where an agent takes objects from others.
pub(super) const AGENT_PEER: &str = "listen.peer";

/// The release that an agent reports.
pub(super) const AGENT_RELEASE: &str = "release";

/// Sets keys, written `key` or `table.key`: the line that sets a key, commented out or not, is replaced; a new key goes
/// to the end of its table.
pub(super) fn write(path: &Path, own: &[(&str, toml::Value)], asked: &[(String, toml::Value)]) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let own = own.iter().map(|(key, value)| (*key, value));
    for (key, value) in own.chain(asked.iter().map(|(key, value)| (key.as_str(), value))) {
        set(&mut lines, key, value);
    }
    let text = lines.join("\n") + "\n";
    if let Err(error) = text.parse::<toml::Table>() {
        bail!("{} would not be TOML any more: {error}", path.display());
    }
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn set(lines: &mut Vec<String>, key: &str, value: &toml::Value) {
    let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
    let line = format!("{key} = {value}");
    let start = if table.is_empty() {
        0
    } else {
        let header = format!("[{table}]");
        match lines.iter().position(|line| line.trim() == header) {
            Some(place) => place + 1,
            None => {
                lines.push(header);
                lines.len()
            }
        }
    };
    let end = lines[start..]
        .iter()
        .position(|line| line.starts_with('['))
        .map_or(lines.len(), |place| start + place);
    let sets = |line: &String, commented: bool| {
        let line = if commented {
            line.strip_prefix('#')
        } else {
            Some(line.as_str())
        };
        let rest = line.and_then(|line| line.trim_start().strip_prefix(key));
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let found = lines[start..end].iter().position(|line| sets(line, false));
    match found.or_else(|| lines[start..end].iter().position(|line| sets(line, true))) {
        Some(place) => lines[start + place] = line,
        None => lines.insert(end, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_replaces_its_line_in_its_table_and_leaves_the_rest() {
        let mut lines: Vec<String> = [
            "# says where",
            "listen = \"a\"",
            "[table]",
            "listen = 3",
            "# lease = \"10s\"",
        ]
        .map(str::to_owned)
        .into();
        set(&mut lines, "listen", &"b".into());
        set(&mut lines, "table.lease", &"2s".into());
        set(&mut lines, "fresh", &1.into());
        set(&mut lines, "other.one", &true.into());
        assert_eq!(
            lines,
            [
                "# says where",
                "listen = \"b\"",
                "fresh = 1",
                "[table]",
                "listen = 3",
                "lease = \"2s\"",
                "[other]",
                "one = true"
            ]
        );
    }
}
