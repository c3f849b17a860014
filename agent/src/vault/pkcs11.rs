//! Key provider `pkcs11`: a token, such as an HSM, that opens each generation's KEK with a key that never leaves it.
//!
//! ```text
//!  token: AES-256 key "hypernet-kek-<server>-<generation>", not extractable --AES-GCM--> file kek.<generation> --> KEK
//! ```
//!
//! Destroying a generation destroys the token's key first: from then on no copy of the file opens anything. The token sees
//! KEKs, and neither data keys nor plaintext. Octets of the file: STORE.md section 7.
//!
//! Specifications: PKCS #11 v2.40 (C_GenerateKey, C_Encrypt, CKM_AES_GCM), NIST SP 800-38D.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use minicbor::{Decode, Encode};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::entropy::{Entropy, array};
use super::keyring::unix_s;
use super::provider::{Generation, Kek, KeyProvider, Known, ProviderError};
use crate::store::io::Disk;

const NAME: &str = "pkcs11";
const FORMAT: &str = "hn-kek-1";
const FILE_PREFIX: &str = "kek.";
/// Longest file that is read.
const FILE_OCTETS_MAX: usize = 1024;
const TAG_BITS: u64 = 128;

/// Whether a file's name is one of this provider's.
#[must_use]
pub fn is_key_file(name: &str) -> bool {
    generation_of(name).is_some()
}

fn generation_of(name: &str) -> Option<Generation> {
    let number = name.strip_prefix(FILE_PREFIX)?;
    let parsed: u32 = number.parse().ok()?;
    // One spelling each: kek.01 is not ours.
    (parsed.to_string() == number).then_some(Generation(parsed))
}

fn file_of(generation: Generation) -> String {
    format!("{FILE_PREFIX}{generation}")
}

/// Which token, and for whom.
#[derive(Clone)]
pub struct TokenSettings {
    /// The vendor's library.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// PIN of its user.
    pub pin: Zeroizing<String>,
    /// This server's name: one token may keep the keys of many.
    pub server: String,
}

impl fmt::Debug for TokenSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSettings")
            .field("module", &self.module)
            .field("token", &self.token)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// Why a token cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The library cannot be loaded or does not start.
    #[error("load the PKCS#11 library {module}: is keys.pkcs11.module right?")]
    Module {
        /// The library.
        module: PathBuf,
        /// Why.
        source: Error,
    },
    /// This directory has objects, and none of their keys is here.
    #[error("no file kek.N is here, but a keyring is: keys.provider cannot change while there are objects")]
    NoKeys,
    /// The token does not answer, or does not let this server in.
    #[error("use the token {token:?}: are keys.pkcs11.token and keys.pkcs11.pin right?")]
    Token {
        /// Its label.
        token: String,
        /// Why.
        source: ProviderError,
    },
}

/// Why one call failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("no token has the label {0:?}")]
    NoToken(String),
    #[error("the token refuses")]
    Token(#[from] Error),
    #[error("access the files kek.N")]
    Io(#[from] io::Error),
    #[error("the file kek.{0} is no key file of this server and release: restore it")]
    File(Generation),
}

/// A file `kek.<generation>`.
#[derive(Encode, Decode)]
#[cbor(map)]
struct File {
    #[n(0)]
    format: String,
    #[n(1)]
    server: String,
    #[n(2)]
    generation: Generation,
    #[n(3)]
    made_unix_s: u64,
    #[cbor(n(4), with = "minicbor::bytes")]
    nonce: [u8; 12],
    #[cbor(n(5), with = "minicbor::bytes")]
    sealed: [u8; 48],
}

impl File {
    /// What the seal is bound to.
    fn associated(&self) -> Vec<u8> {
        minicbor::to_vec((&self.format, &self.server, self.generation, self.made_unix_s)).expect("memory takes all")
    }

    /// Reads the octets of a file, in the one spelling that is written.
    fn read(octets: &[u8], server: &str, generation: Generation) -> Option<File> {
        if octets.len() > FILE_OCTETS_MAX {
            return None;
        }
        let file: File = minicbor::decode(octets).ok()?;
        let same = minicbor::to_vec(&file).is_ok_and(|again| again == octets);
        (same && file.format == FORMAT && file.server == server && file.generation == generation).then_some(file)
    }
}

/// Reads the octets of a key file; the fuzz target's way in.
#[doc(hidden)]
#[must_use]
pub fn check_octets(octets: &[u8]) -> bool {
    File::read(octets, "s1", Generation(1)).is_some()
}

/// The token, open.
pub struct Token {
    disk: Arc<dyn Disk>,
    entropy: Arc<dyn Entropy>,
    settings: TokenSettings,
    library: Pkcs11,
    /// Made anew after any failure: the token may have been pulled out.
    session: Mutex<Option<Session>>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// Opens the token, and makes the first generation where `fresh` says that there is no key of any kind yet.
    ///
    /// # Errors
    ///
    /// [`TokenError`].
    pub fn open(
        disk: Arc<dyn Disk>,
        entropy: Arc<dyn Entropy>,
        settings: TokenSettings,
        fresh: bool,
    ) -> Result<Token, TokenError> {
        let module = |source| TokenError::Module {
            module: settings.module.clone(),
            source,
        };
        let library = Pkcs11::new(&settings.module).map_err(module)?;
        match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // Another part of this process uses the same library.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(module(error)),
        }
        let token = Token {
            disk,
            entropy,
            settings,
            library,
            session: Mutex::new(None),
        };
        let failed = |source| TokenError::Token {
            token: token.settings.token.clone(),
            source,
        };
        let files = token.files().map_err(|error| failed(unavailable(error)))?;
        match (files.is_empty(), fresh) {
            (true, true) => {
                token.begin_generation().map_err(failed)?;
            }
            (true, false) => return Err(TokenError::NoKeys),
            (false, _) => {
                token.current().map_err(failed)?;
            }
        }
        Ok(token)
    }

    /// Runs a call in a session of the logged-in user.
    fn with<T>(&self, call: impl Fn(&Session) -> Result<T, CallError>) -> Result<T, ProviderError> {
        let mut held = self.session.lock();
        // A session of before may be dead: one more is tried.
        let reused = held.is_some();
        let session = match held.take() {
            Some(session) => session,
            None => self.log_in().map_err(unavailable)?,
        };
        let (session, outcome) = match call(&session) {
            Err(CallError::Token(_)) if reused => {
                drop(session);
                let session = self.log_in().map_err(unavailable)?;
                let outcome = call(&session);
                (session, outcome)
            }
            outcome => (session, outcome),
        };
        match outcome {
            Ok(done) => {
                *held = Some(session);
                Ok(done)
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    fn log_in(&self) -> Result<Session, CallError> {
        let mut found = None;
        for slot in self.library.get_slots_with_initialized_token()? {
            if self.library.get_token_info(slot)?.label() == self.settings.token {
                found = Some(slot);
                break;
            }
        }
        let slot = found.ok_or_else(|| CallError::NoToken(self.settings.token.clone()))?;
        let session = self.library.open_rw_session(slot)?;
        match session.login(UserType::User, Some(&AuthPin::from(self.settings.pin.as_str()))) {
            // Every session of a process shares the login.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => Err(error.into()),
        }
    }

    fn label(&self, generation: Generation) -> String {
        format!("hypernet-kek-{}-{generation}", self.settings.server)
    }

    fn key(&self, session: &Session, generation: Generation) -> Result<Option<ObjectHandle>, CallError> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::Label(self.label(generation).into_bytes()),
        ];
        Ok(session.find_objects(&template)?.into_iter().next())
    }

    fn files(&self) -> Result<Vec<Generation>, CallError> {
        let names = self.disk.list("")?;
        let mut found: Vec<_> = names.iter().filter_map(|name| generation_of(name)).collect();
        found.sort_unstable();
        Ok(found)
    }

    fn file(&self, generation: Generation) -> Result<File, CallError> {
        let octets = self.disk.read(&file_of(generation))?;
        File::read(&octets, &self.settings.server, generation).ok_or(CallError::File(generation))
    }

    /// Generations that have both their file and the token's key; a crash leaves one without the other, which is none.
    fn whole(&self, session: &Session) -> Result<Vec<Generation>, CallError> {
        let mut whole = Vec::new();
        for generation in self.files()? {
            if self.key(session, generation)?.is_some() {
                whole.push(generation);
            }
        }
        Ok(whole)
    }

    fn unwrap(&self, session: &Session, generation: Generation) -> Result<Option<Kek>, CallError> {
        let Some(key) = self.key(session, generation)? else {
            return Ok(None);
        };
        let file = match self.file(generation) {
            Ok(file) => file,
            Err(CallError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (mut nonce, associated) = (file.nonce, file.associated());
        let params = GcmParams::new(&mut nonce, &associated, TAG_BITS.into())?;
        let opened = Zeroizing::new(session.decrypt(&Mechanism::AesGcm(params), key, &file.sealed)?);
        let octets = opened.as_slice().try_into().map_err(|_| CallError::File(generation))?;
        Ok(Some(Kek::new(octets)))
    }

    fn begin(&self, session: &Session) -> Result<Generation, CallError> {
        // Numbers whose key or file a crash left behind alone are not given again either.
        let mut number = self.files()?.last().map_or(1, |last| last.0 + 1);
        while self.key(session, Generation(number))?.is_some() {
            number += 1;
        }
        let generation = Generation(number);
        let key = session.generate_key(
            &Mechanism::AesKeyGen,
            &[
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::ValueLen(32.into()),
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::Label(self.label(generation).into_bytes()),
            ],
        )?;
        let mut file = File {
            format: FORMAT.to_owned(),
            server: self.settings.server.clone(),
            generation,
            made_unix_s: unix_s(),
            nonce: array(self.entropy.as_ref()),
            sealed: [0; 48],
        };
        let kek: Zeroizing<[u8; 32]> = Zeroizing::new(array(self.entropy.as_ref()));
        let (mut nonce, associated) = (file.nonce, file.associated());
        let params = GcmParams::new(&mut nonce, &associated, TAG_BITS.into())?;
        let sealed = session.encrypt(&Mechanism::AesGcm(params), key, kek.as_slice())?;
        file.sealed = sealed.as_slice().try_into().map_err(|_| CallError::File(generation))?;
        let octets = minicbor::to_vec(&file).expect("memory takes all");
        self.disk.replace(&file_of(generation), &octets)?;
        Ok(generation)
    }
}

fn unavailable(error: CallError) -> ProviderError {
    ProviderError::Unavailable {
        provider: NAME,
        source: Box::new(error),
    }
}

impl KeyProvider for Token {
    fn name(&self) -> &'static str {
        NAME
    }

    fn current(&self) -> Result<(Generation, Kek), ProviderError> {
        let newest = self.with(|session| Ok(self.whole(session)?.last().copied()))?;
        let generation = newest.ok_or(ProviderError::NoGeneration {
            generation: Generation(0),
        })?;
        Ok((generation, self.kek(generation)?))
    }

    fn kek(&self, generation: Generation) -> Result<Kek, ProviderError> {
        self.with(|session| self.unwrap(session, generation))?
            .ok_or(ProviderError::NoGeneration { generation })
    }

    fn generations(&self) -> Result<Vec<Known>, ProviderError> {
        self.with(|session| {
            let known = self.whole(session)?.into_iter().map(|generation| {
                Ok(Known {
                    generation,
                    made_unix_s: self.file(generation)?.made_unix_s,
                })
            });
            known.collect()
        })
    }

    fn begin_generation(&self) -> Result<Generation, ProviderError> {
        self.with(|session| self.begin(session))
    }

    fn destroy(&self, generation: Generation) -> Result<(), ProviderError> {
        let known = self.with(|session| self.whole(session))?;
        if known.last() == Some(&generation) {
            return Err(ProviderError::Current { generation });
        }
        if !known.contains(&generation) {
            return Err(ProviderError::NoGeneration { generation });
        }
        self.with(|session| {
            // The token's key first: what is left of the file opens nothing then.
            if let Some(key) = self.key(session, generation)? {
                session.destroy_object(key)?;
            }
            match self.disk.remove(&file_of(generation)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
                Ok(()) | Err(_) => Ok(self.disk.sync_folder("")?),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::store::simulated::SimulatedDisk;
    use crate::vault::{SystemEntropy, conformance};

    /// Debian's SoftHSM2, a token in software.
    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
    /// Set in the process that runs a test's body: the library reads its place from the environment of the process.
    const INSIDE: &str = "SOFTHSM2_CONF";

    /// Runs `body` in a process of its own with a fresh token.
    fn on_a_token(test: &str, body: impl FnOnce()) {
        if std::env::var_os(INSIDE).is_some() {
            body();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let tokens = dir.path().join("tokens");
        std::fs::create_dir(&tokens).unwrap();
        let conf = dir.path().join("softhsm2.conf");
        std::fs::write(&conf, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
        let made = Command::new("softhsm2-util")
            .args([
                "--init-token",
                "--free",
                "--label",
                "pool",
                "--pin",
                "1234",
                "--so-pin",
                "5678",
            ])
            .env(INSIDE, &conf)
            .output()
            .expect("softhsm2-util runs: install the package softhsm2, as ./test does");
        assert!(made.status.success(), "{made:?}");
        let inside = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("vault::pkcs11::tests::{test}"), "--nocapture"])
            .env(INSIDE, &conf)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&inside.stdout);
        assert!(
            inside.status.success() && told.contains("1 passed"),
            "{told}{}",
            String::from_utf8_lossy(&inside.stderr)
        );
    }

    fn open(disk: &SimulatedDisk, server: &str, fresh: bool) -> Result<Token, TokenError> {
        let settings = TokenSettings {
            module: Path::new(MODULE).to_owned(),
            token: "pool".to_owned(),
            pin: Zeroizing::new("1234".to_owned()),
            server: server.to_owned(),
        };
        Token::open(Arc::new(disk.clone()), Arc::new(SystemEntropy), settings, fresh)
    }

    #[test]
    fn token_keeps_the_rules_of_providers() {
        on_a_token("token_keeps_the_rules_of_providers", || {
            let disk = SimulatedDisk::default();
            let mut fresh = true;
            conformance::check(|| {
                let token = open(&disk, "s1", fresh).unwrap();
                fresh = false;
                Box::new(token)
            });
        });
    }

    #[test]
    fn copy_of_a_file_opens_nothing_once_its_generation_is_destroyed() {
        on_a_token("copy_of_a_file_opens_nothing_once_its_generation_is_destroyed", || {
            let disk = SimulatedDisk::default();
            let token = open(&disk, "s1", true).unwrap();
            let copy = disk.read("kek.1").unwrap();
            token.begin_generation().unwrap();
            token.destroy(Generation(1)).unwrap();
            disk.replace("kek.1", &copy).unwrap();
            let again = open(&disk, "s1", false).unwrap();
            assert!(matches!(
                again.kek(Generation(1)),
                Err(ProviderError::NoGeneration { .. })
            ));
            assert_eq!(again.generations().unwrap().len(), 1);
        });
    }

    #[test]
    fn servers_of_one_token_do_not_meet_and_changed_files_do_not_open() {
        on_a_token("servers_of_one_token_do_not_meet_and_changed_files_do_not_open", || {
            let (one, two) = (SimulatedDisk::default(), SimulatedDisk::default());
            let token = open(&one, "s1", true).unwrap();
            let other = open(&two, "s2", true).unwrap();
            let kek = |token: &Token| *token.kek(Generation(1)).unwrap().octets();
            assert_ne!(kek(&token), kek(&other));
            let octets = one.read("kek.1").unwrap();
            two.replace("kek.1", &octets).unwrap();
            assert!(matches!(
                other.kek(Generation(1)),
                Err(ProviderError::Unavailable { .. })
            ));
            for place in 0..octets.len() {
                let mut changed = octets.clone();
                changed[place] ^= 1;
                one.replace("kek.1", &changed).unwrap();
                assert!(token.kek(Generation(1)).is_err(), "octet {place}");
            }
            one.replace("kek.1", &octets).unwrap();
            assert!(token.kek(Generation(1)).is_ok(), "it goes on after every refusal");
        });
    }

    #[test]
    fn crash_at_every_step_of_a_new_generation_leaves_the_old_one() {
        on_a_token("crash_at_every_step_of_a_new_generation_leaves_the_old_one", || {
            for fuse in 0..4 {
                let (disk, server) = (SimulatedDisk::default(), format!("s{fuse}"));
                let token = open(&disk, &server, true).unwrap();
                let first = *token.kek(Generation(1)).unwrap().octets();
                disk.cut_power_after(fuse);
                let begun = token.begin_generation();
                let disk = disk.restart(fuse);
                let token = open(&disk, &server, false).unwrap();
                assert_eq!(*token.kek(Generation(1)).unwrap().octets(), first, "step {fuse}");
                if let Ok(begun) = begun {
                    assert_eq!(token.current().unwrap().0, begun, "step {fuse}");
                }
                let next = token.begin_generation().unwrap();
                assert_eq!(token.current().unwrap().0, next, "step {fuse}");
            }
        });
    }

    #[test]
    fn wrong_token_and_pin_are_told_apart_from_lost_keys() {
        on_a_token("wrong_token_and_pin_are_told_apart_from_lost_keys", || {
            let disk = SimulatedDisk::default();
            assert!(matches!(open(&disk, "s1", false), Err(TokenError::NoKeys)));
            let settings = |token: &str, pin: &str| TokenSettings {
                module: Path::new(MODULE).to_owned(),
                token: token.to_owned(),
                pin: Zeroizing::new(pin.to_owned()),
                server: "s1".to_owned(),
            };
            for wrong in [settings("loop", "1234"), settings("pool", "4321")] {
                let error = Token::open(Arc::new(disk.clone()), Arc::new(SystemEntropy), wrong, true).unwrap_err();
                assert!(
                    matches!(
                        error,
                        TokenError::Token {
                            source: ProviderError::Unavailable { .. },
                            ..
                        }
                    ),
                    "{error:?}"
                );
            }
        });
    }

    proptest! {
        #[test]
        fn any_octets_are_refused_without_a_panic(octets: Vec<u8>) {
            prop_assert!(!check_octets(&octets));
        }
    }
}
