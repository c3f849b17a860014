//! The examples of PROTOCOL.md are what the code does.

use hickory_proto::rr::{Name, RecordType};
use zones::query::build_question;
use zones::tsig::sign_request;
use zones::{Address, Claim, Domain, Has, Register, TsigKey, Want, Wish};

const DOCUMENT: &str = include_str!("../PROTOCOL.md");

/// The text between ``` and ``` that `marker` is in.
fn block(marker: &str) -> &'static str {
    DOCUMENT
        .split("```")
        .skip(1)
        .step_by(2)
        .find(|block| block.contains(marker))
        .unwrap_or_else(|| panic!("no block with {marker}"))
}

/// The character-strings of a record as dig prints them.
fn strings(line: &str) -> Vec<&str> {
    line.split('"').skip(1).step_by(2).collect()
}

#[test]
fn names_in_the_document_are_those_of_their_addresses() {
    let domain: Domain = "hypernet.internal".parse().unwrap();
    let mut rows = 0;
    for line in DOCUMENT.lines() {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let ["", address, name, ""] = cells[..] else { continue };
        let Ok(address) = address.parse::<Address>() else {
            continue;
        };
        if !name.ends_with('.') {
            continue;
        }
        let name: Name = name.parse().unwrap();
        let names = [
            domain.obj_name(&address).unwrap(),
            domain.tree_name(&address).unwrap(),
            domain.bare_name(&address).unwrap(),
        ];
        assert!(names.contains(&name), "{address} {name}");
        rows += 1;
    }
    assert_eq!(rows, 7);
}

#[test]
fn records_in_the_document_read_back() {
    let register = strings(block("state=moving"));
    assert_eq!(Register::from_strings(&register).unwrap().strings(), register);
    let pool = block("_want.s2.pool");
    let line = |name| strings(pool.lines().find(|line| line.starts_with(name)).unwrap());
    let has = line("s2.pool");
    assert_eq!(Has::from_strings(&has).unwrap().answered(), has);
    for want in ["_want.s2.pool", "_want.s4.pool"].map(line) {
        assert_eq!(Want::from_strings(&want).unwrap().strings(), want);
    }
    let report = block("claim=gone");
    for claim in report.lines().filter(|line| line.contains("claim=")) {
        assert_eq!(Claim::from_strings(&strings(claim)).unwrap().strings(), strings(claim));
    }
    let wish = line("_todo.s2.pool");
    assert_eq!(Wish::from_strings(&wish).unwrap().strings(), wish);
}

#[test]
fn signed_question_in_the_document_is_what_is_sent() {
    let key = TsigKey::from_bind_file(block("key \"s2\"")).unwrap();
    let name: Name = "3.1.obj.hypernet.internal.".parse().unwrap();
    let mut message = build_question(0x1234, &name, RecordType::TXT, Some(1232));
    sign_request(&mut message, &key, 1_700_000_000);
    let hex: String = message.iter().map(|octet| format!("{octet:02x}")).collect();
    let document: String = block("12340000000100000000").split_whitespace().collect();
    assert_eq!(document, hex);
}

/// Section 9 says who cannot do what, and names a test for it.
#[test]
fn tests_that_the_document_names_exist() {
    let (_, section) = DOCUMENT.split_once("## 9.").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let named: Vec<&str> = section
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.matches('_').count() >= 3)
        .collect();
    assert!(named.len() > 12, "{named:?}");
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = String::new();
    let mut folders: Vec<_> = ["zones", "certs", "agent", "librarian", "integration"]
        .iter()
        .flat_map(|room| [project.join(room).join("src"), project.join(room).join("tests")])
        .collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    for test in named {
        assert!(sources.contains(&format!("fn {test}(")), "no test {test}");
    }
}
