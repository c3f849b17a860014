//! The files of a type's next version, to be filled in by hand.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::read::LoadError;
use super::r#type::{DIALECT, Schemas};
use zones::ObjectType;

/// Why there is no skeleton.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SkeletonError {
    /// The name leads elsewhere.
    #[error("{kind} names no directory: a type with schemas has no / in its name and no dot in front")]
    Name {
        /// The type.
        kind: ObjectType,
    },
    /// What is there has to be right first.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file.
    #[error("write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Writes the first or the next version of a type below the directory of all types; returns the files. Nothing is overwritten.
///
/// # Errors
///
/// [`SkeletonError`].
pub fn write(dir: &Path, kind: &ObjectType) -> Result<Vec<PathBuf>, SkeletonError> {
    let name = kind.to_string();
    if name.contains('/') || name.starts_with('.') {
        return Err(SkeletonError::Name { kind: kind.clone() });
    }
    let place = dir.join(&name);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SkeletonError::Write { path, source }
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let schemas = Schemas::load(dir)?;
    let newest = schemas.get(kind).and_then(|one| Some((one.newest()?, one)));
    let files = match newest {
        None => vec![
            ("1.schema.json".to_owned(), first(&name)),
            ("1.examples.json".to_owned(), "[\n  {}\n]\n".to_owned()),
        ],
        Some((now, one)) => {
            let next = now + 1;
            let version = one.version(now).expect("the newest is there");
            let schema = serde_json::to_string_pretty(&version.schema).expect("it was read as JSON");
            let examples = serde_json::to_string_pretty(&version.examples).expect("it was read as JSON");
            vec![
                (format!("{next}.schema.json"), schema + "\n"),
                (format!("{next}.examples.json"), examples + "\n"),
                (format!("{now}-to-{next}.jq"), forward(now)),
                (format!("{next}-to-{now}.jq"), back(now)),
            ]
        }
    };
    fs::create_dir_all(&place).map_err(failed(&place))?;
    let mut written = Vec::new();
    for (file, text) in files {
        let path = place.join(file);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed(&path))?;
        file.write_all(text.as_bytes()).map_err(failed(&path))?;
        written.push(path);
    }
    Ok(written)
}

fn first(name: &str) -> String {
    let schema = serde_json::json!({
        "$schema": DIALECT,
        "title": name,
        "type": "object",
        "properties": {},
        "required": [],
    });
    serde_json::to_string_pretty(&schema).expect("it is JSON") + "\n"
}

fn forward(now: u32) -> String {
    format!(
        "# expand\n# An expand step adds: version {now} must still read the result. One that takes away or renames is `# contract`.\n\
         # Keep what is not known here, and leave an own result alone: `.title //= .name`, not `{{title: .name}}`.\n.\n"
    )
}

fn back(now: u32) -> String {
    format!(
        "# exact\n# The way back to version {now}. `# exact but /title` if what the step did to /title stays; no promise without the line.\n.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::check::check;
    use super::super::step::InProcess;
    use super::*;

    #[test]
    fn skeletons_of_three_versions_pass_the_check() {
        let dir = tempfile::tempdir().unwrap();
        let kind = "photo".parse().unwrap();
        for files in [2, 4, 4] {
            assert_eq!(write(dir.path(), &kind).unwrap().len(), files);
        }
        let report = check(dir.path(), &InProcess::default()).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert_eq!(report.types[0].versions, [1, 2, 3]);
    }

    #[test]
    fn skeleton_stays_within_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["../photo", "a/b", "..", ".hidden"] {
            let refused = write(dir.path(), &name.parse().unwrap());
            assert!(matches!(refused, Err(SkeletonError::Name { .. })), "{name}");
        }
    }
}
