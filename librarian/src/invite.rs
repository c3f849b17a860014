//! Invitations: what the librarian keeps of a join token, and that each is used once.
//!
//! `invites/<server>.toml` holds the hash of the secret, the expiry and the first role. Using an invitation removes its file
//! durably before anything is signed, so that no crash and no second sender can use it again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use certs::{Secret, SecretHash, UnixTime};
use serde::{Deserialize, Serialize};
use zones::{Role, ServerName};

use crate::files::{self, FileError, Readable};

/// Longest file that is read.
const FILE_OCTETS_MAX: u64 = 4096;

/// An invitation that was not used yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invite {
    /// Whom it invites.
    pub server: ServerName,
    /// Its first role.
    pub role: Role,
    /// What the secret must hash to.
    pub secret: SecretHash,
    /// When it ends.
    pub expires: UnixTime,
}

/// A server that joined.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its name.
    pub server: ServerName,
    /// Its first role.
    pub role: Role,
    /// When it joined.
    pub joined: UnixTime,
    /// The number of its first certificate.
    pub serial: certs::Serial,
}

/// Why an invitation does not let anybody in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// No invitation for this server, or another secret. Both look the same to a stranger.
    #[error("the token is not known here, or was used: ask for a new one with `librarian invite {server}`")]
    Unknown {
        /// Whom it was for.
        server: ServerName,
    },
    /// Its time is over.
    #[error("the token expired: ask for a new one with `librarian invite {server}`")]
    Expired {
        /// Whom it was for.
        server: ServerName,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is malformed.
    #[error("{path} is malformed: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct InviteFile {
    role: String,
    secret_sha256: String,
    expires_unix_s: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct MemberFile {
    role: String,
    joined_unix_s: u64,
    certificate_serial: String,
}

impl Invite {
    /// Writes the invitation; one for the same server that was not used is replaced.
    ///
    /// # Errors
    ///
    /// [`InviteError::File`].
    pub fn write(&self, dir: &Path) -> Result<(), InviteError> {
        let file = InviteFile {
            role: self.role.to_string(),
            secret_sha256: self.secret.to_string(),
            expires_unix_s: self.expires.as_secs(),
        };
        let text = toml::to_string(&file).expect("texts and a number are TOML");
        Ok(files::write(
            &path(dir, &self.server),
            text.as_bytes(),
            Readable::Owner,
        )?)
    }

    /// The invitation that a secret proves. It is not used yet.
    ///
    /// # Errors
    ///
    /// [`InviteError`] says why there is none.
    pub fn find(dir: &Path, server: &ServerName, secret: &Secret, now: UnixTime) -> Result<Invite, InviteError> {
        let path = path(dir, server);
        let text = match files::read(&path, FILE_OCTETS_MAX) {
            Ok(text) => text,
            Err(error) if error.is_absent() => return Err(InviteError::Unknown { server: server.clone() }),
            Err(error) => return Err(error.into()),
        };
        let malformed = |reason: String| InviteError::Malformed {
            path: path.clone(),
            reason,
        };
        let file: InviteFile = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        let invite = Invite {
            server: server.clone(),
            role: file
                .role
                .parse()
                .map_err(|error: zones::server::RoleError| malformed(error.to_string()))?,
            secret: file
                .secret_sha256
                .parse()
                .map_err(|error: certs::TokenError| malformed(error.to_string()))?,
            expires: UnixTime::since_unix_epoch(Duration::from_secs(file.expires_unix_s)),
        };
        if !invite.secret.admits(secret) {
            return Err(InviteError::Unknown { server: server.clone() });
        }
        if now >= invite.expires {
            return Err(InviteError::Expired { server: server.clone() });
        }
        Ok(invite)
    }

    /// Uses the invitation up, durably.
    ///
    /// # Errors
    ///
    /// [`InviteError::Unknown`] if it was used meanwhile.
    pub fn consume(&self, dir: &Path) -> Result<(), InviteError> {
        match files::remove(&path(dir, &self.server)) {
            Ok(()) => Ok(()),
            Err(error) if error.is_absent() => Err(InviteError::Unknown {
                server: self.server.clone(),
            }),
            Err(error) => Err(error.into()),
        }
    }
}

impl Member {
    /// Writes down that the server joined.
    ///
    /// # Errors
    ///
    /// [`InviteError::File`].
    pub fn write(&self, dir: &Path) -> Result<(), InviteError> {
        let file = MemberFile {
            role: self.role.to_string(),
            joined_unix_s: self.joined.as_secs(),
            certificate_serial: self.serial.to_string(),
        };
        let text = toml::to_string(&file).expect("texts and a number are TOML");
        Ok(files::write(
            &member_path(dir, &self.server),
            text.as_bytes(),
            Readable::Owner,
        )?)
    }

    /// Every server that joined, by name.
    ///
    /// # Errors
    ///
    /// [`InviteError`] names the file at fault.
    pub fn all(dir: &Path) -> Result<Vec<Member>, InviteError> {
        let folder = dir.join("servers");
        let mut members = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(FileError::new("list", &folder))? {
            let path = entry.map_err(FileError::new("list", &folder))?.path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let malformed = |reason: String| InviteError::Malformed {
                path: path.clone(),
                reason,
            };
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let text = files::read(&path, FILE_OCTETS_MAX)?;
            let file: MemberFile = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
            members.push(Member {
                server: name
                    .parse()
                    .map_err(|error: zones::server::ServerNameError| malformed(error.to_string()))?,
                role: file
                    .role
                    .parse()
                    .map_err(|error: zones::server::RoleError| malformed(error.to_string()))?,
                joined: UnixTime::since_unix_epoch(Duration::from_secs(file.joined_unix_s)),
                serial: file
                    .certificate_serial
                    .parse()
                    .map_err(|error: certs::PeerError| malformed(error.to_string()))?,
            });
        }
        members.sort_by(|a, b| a.server.cmp(&b.server));
        Ok(members)
    }
}

/// Where a server that joined is written down.
#[must_use]
pub fn member_path(dir: &Path, server: &ServerName) -> PathBuf {
    dir.join("servers").join(format!("{server}.toml"))
}

fn path(dir: &Path, server: &ServerName) -> PathBuf {
    dir.join("invites").join(format!("{server}.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    fn pool() -> (tempfile::TempDir, Invite, Secret) {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["invites", "servers"] {
            files::make_dir(&dir.path().join(folder)).unwrap();
        }
        let secret = Secret::new([7; 32]);
        let invite = Invite {
            server: "s2".parse().unwrap(),
            role: Role::Free,
            secret: secret.hash(),
            expires: at(100),
        };
        invite.write(dir.path()).unwrap();
        (dir, invite, secret)
    }

    #[test]
    fn an_invitation_is_used_once() {
        let (dir, invite, secret) = pool();
        let find = || Invite::find(dir.path(), &invite.server, &secret, at(1));
        assert_eq!(find().unwrap(), invite);
        assert_eq!(find().unwrap(), invite, "looking does not use it");
        invite.consume(dir.path()).unwrap();
        assert!(matches!(invite.consume(dir.path()), Err(InviteError::Unknown { .. })));
        assert!(matches!(find(), Err(InviteError::Unknown { .. })));
    }

    #[test]
    fn another_secret_another_server_and_an_ended_invitation_let_nobody_in() {
        let (dir, invite, secret) = pool();
        let find =
            |server: &str, secret: &Secret, now| Invite::find(dir.path(), &server.parse().unwrap(), secret, at(now));
        assert!(matches!(
            find("s2", &Secret::new([8; 32]), 1),
            Err(InviteError::Unknown { .. })
        ));
        assert!(matches!(find("s3", &secret, 1), Err(InviteError::Unknown { .. })));
        assert!(matches!(find("s2", &secret, 100), Err(InviteError::Expired { .. })));
        // Who has not the secret does not learn that the time is over.
        assert!(matches!(
            find("s2", &Secret::new([8; 32]), 100),
            Err(InviteError::Unknown { .. })
        ));
        assert_eq!(find("s2", &secret, 99).unwrap(), invite);
    }

    #[test]
    fn the_secret_itself_is_not_kept() {
        let (dir, _, secret) = pool();
        let text = std::fs::read_to_string(dir.path().join("invites/s2.toml")).unwrap();
        assert!(!text.contains(&secret.expose()));
    }

    #[test]
    fn members_come_back_in_order() {
        let (dir, ..) = pool();
        let member = |name: &str| Member {
            server: name.parse().unwrap(),
            role: Role::Serving,
            joined: at(5),
            serial: certs::Serial::new([3; 16]),
        };
        for name in ["s3", "s1"] {
            member(name).write(dir.path()).unwrap();
        }
        assert_eq!(Member::all(dir.path()).unwrap(), [member("s1"), member("s3")]);
    }
}
