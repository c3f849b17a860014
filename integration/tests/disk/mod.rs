//! A search of files for secrets, in every form in which one could have got there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, Encoding, HEXLOWER, HEXUPPER};

/// Something that must not lie about.
#[derive(Clone)]
pub(crate) struct Secret {
    /// What it is, for people.
    pub(crate) what: String,
    /// The only files that may hold it, below the directory that is searched.
    pub(crate) lies_in: Vec<String>,
    octets: Vec<u8>,
}

/// A secret that was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its number among those that were sought.
    pub(crate) secret: usize,
    /// How it was spelled.
    pub(crate) form: &'static str,
    /// Where, below the directory.
    pub(crate) file: PathBuf,
}

impl Secret {
    pub(crate) fn new(what: &str, octets: &[u8], lies_in: &[&str]) -> Secret {
        assert!(octets.len() >= 16, "what is shorter is found by chance");
        Secret {
            what: what.to_owned(),
            lies_in: lies_in.iter().map(|place| (*place).to_owned()).collect(),
            octets: octets.to_vec(),
        }
    }

    /// As it is, in hexadecimal, in both alphabets of base64 at each of three offsets, and as Rust prints octets.
    fn forms(&self) -> Vec<(&'static str, Vec<u8>)> {
        let octets = &self.octets;
        let numbers: Vec<String> = octets.iter().map(u8::to_string).collect();
        let mut forms = vec![
            ("raw", octets.clone()),
            ("hexadecimal", HEXLOWER.encode(octets).into_bytes()),
            ("hexadecimal", HEXUPPER.encode(octets).into_bytes()),
            ("numbers", numbers.join(", ").into_bytes()),
            ("escaped", octets.escape_ascii().to_string().into_bytes()),
        ];
        for offset in 0..3 {
            forms.push(("base64", base64_inside(&BASE64_NOPAD, octets, offset)));
            forms.push(("base64url", base64_inside(&BASE64URL_NOPAD, octets, offset)));
        }
        forms
    }
}

/// The symbols of `octets` in the base64 of a longer text, where `offset` octets (modulo 3) come before them and any after:
/// those symbols that depend on nothing else.
fn base64_inside(encoding: &Encoding, octets: &[u8], offset: usize) -> Vec<u8> {
    let text = encoding.encode(&[&vec![0; offset], octets].concat());
    let (first, end) = ((offset * 8).div_ceil(6), (offset + octets.len()) * 8 / 6);
    text.as_bytes()[first..end].to_vec()
}

/// Searches all files below `dir`; says how many octets there were.
pub(crate) fn search(dir: &Path, secrets: &[Secret]) -> Result<(Vec<Found>, usize)> {
    let needles = Needles::new(secrets);
    let (mut found, mut searched) = (Vec::new(), 0);
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let item = item?;
            let kind = item.file_type()?;
            if kind.is_dir() {
                folders.push(item.path());
            } else if kind.is_file() {
                let octets = std::fs::read(item.path()).with_context(|| format!("read {}", item.path().display()))?;
                searched += octets.len();
                let path = item.path();
                let file = path.strip_prefix(dir).context("a file below the directory")?;
                needles.find(&octets, |secret, form| {
                    found.push(Found {
                        secret,
                        form,
                        file: file.to_owned(),
                    });
                });
            }
        }
    }
    Ok((found, searched))
}

/// Searches octets for secrets: the number of each that is there, and how it is spelled.
pub(crate) fn search_octets(octets: &[u8], secrets: &[Secret]) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    Needles::new(secrets).find(octets, |secret, form| found.push((secret, form)));
    found
}

/// All forms of all secrets, to be sought in one pass.
struct Needles {
    forms: Vec<(usize, &'static str, Vec<u8>)>,
    /// By the first two octets.
    beginning: Vec<Vec<usize>>,
}

impl Needles {
    fn new(secrets: &[Secret]) -> Needles {
        let forms: Vec<_> = (secrets.iter().enumerate())
            .flat_map(|(number, secret)| {
                secret
                    .forms()
                    .into_iter()
                    .map(move |(form, octets)| (number, form, octets))
            })
            .collect();
        let mut beginning = vec![Vec::new(); 1 << 16];
        for (index, (_, _, octets)) in forms.iter().enumerate() {
            beginning[usize::from(octets[0]) << 8 | usize::from(octets[1])].push(index);
        }
        Needles { forms, beginning }
    }

    /// Tells each form that is in `octets`, once.
    fn find(&self, octets: &[u8], mut tell: impl FnMut(usize, &'static str)) {
        let mut told = vec![false; self.forms.len()];
        let mut two = usize::from(octets.first().copied().unwrap_or_default());
        let mut at = 1;
        // Plain counting: this runs over many octets without optimisation.
        while at < octets.len() {
            two = (two << 8 | octets[at] as usize) & 0xffff;
            for &index in &self.beginning[two] {
                let (secret, form, needle) = &self.forms[index];
                if !told[index] && octets[at - 1..].starts_with(needle) {
                    told[index] = true;
                    tell(*secret, form);
                }
            }
            at += 1;
        }
    }
}

#[test]
fn a_secret_is_found_in_every_form_wherever_it_begins() -> Result<()> {
    let octets: Vec<u8> = (0..32_u8).map(|octet| octet.wrapping_mul(57) ^ 0xb3).collect();
    let secret = Secret::new("key", &octets, &[]);
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("file");
    for before in 0..7 {
        let around = [&b"before-"[..before], &octets, b"after"].concat();
        for (form, text) in [
            ("raw", around.clone()),
            ("hexadecimal", HEXLOWER.encode(&around).into_bytes()),
            ("hexadecimal", HEXUPPER.encode(&around).into_bytes()),
            ("base64", data_encoding::BASE64.encode(&around).into_bytes()),
            ("base64url", data_encoding::BASE64URL.encode(&around).into_bytes()),
            ("numbers", format!("{around:?}").into_bytes()),
            ("escaped", around.escape_ascii().to_string().into_bytes()),
        ] {
            std::fs::write(&file, text)?;
            let (found, _) = search(dir.path(), std::slice::from_ref(&secret))?;
            anyhow::ensure!(found.iter().any(|found| found.form == form), "{form} after {before}");
        }
    }
    std::fs::write(&file, &octets[..31])?;
    anyhow::ensure!(
        search_octets(&octets, std::slice::from_ref(&secret)) == [(0, "raw")],
        "in memory"
    );
    anyhow::ensure!(search(dir.path(), &[secret])?.0.is_empty(), "a part is not the whole");
    Ok(())
}
