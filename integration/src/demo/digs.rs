//! Prints `dig` command lines with their answers.

use anyhow::Result;
use zones::Address;

use super::book::Book;
use crate::harness::{Pool, run};

/// What is asked, name and type.
pub(super) struct Question {
    name: String,
    kind: &'static str,
    signed: bool,
    /// Asked without words about it: what a person reads is the answer.
    options: &'static [&'static str],
}

/// An object of a server, so that its answers change when the server is drained; another if there is none at hand.
pub(super) fn object_on<'b>(pool: &Pool, book: &'b Book, server: &str) -> Result<&'b Address> {
    for entry in book.entries().iter().take(200) {
        let name = pool.obj(entry.address().as_str());
        let answer = crate::harness::dig(pool.dns(), &[&name, "SRV", "+short"])?;
        if answer.stdout.contains(&format!(" {server}.pool.")) {
            return Ok(entry.address());
        }
    }
    Ok(book.first())
}

/// Questions that show every form that the name of an object can take.
pub(super) fn about(pool: &Pool, object: &Address) -> Result<Vec<Question>> {
    let obj = pool.obj(object.as_str());
    let domain: zones::Domain = pool.domain().parse()?;
    let tree = domain.tree_name(object)?.to_string();
    let question = |name: &str, kind, signed, options| Question {
        name: name.to_owned(),
        kind,
        signed,
        options,
    };
    Ok(vec![
        question(&obj, "SRV", false, &[]),
        question(&obj, "A", false, &[]),
        question(&obj, "TXT", true, &[]),
        question(&tree, "SRV", false, &["+tcp"]),
        question(&format!("{object}."), "SRV", false, &[]),
    ])
}

/// Asks and prints.
pub(super) fn show(pool: &Pool, questions: &[Question]) -> Result<()> {
    let (ip, port) = (format!("@{}", pool.dns().ip()), pool.dns().port().to_string());
    let key = pool.admin_key().display().to_string();
    for question in questions {
        let mut args = vec![ip.as_str(), "-p", &port];
        if question.signed {
            args.extend(["-k", &key]);
        }
        args.extend([question.name.as_str(), question.kind]);
        args.extend(question.options);
        args.extend(["+noall", "+answer"]);
        let answer = run("dig", &args)?;
        println!("\n$ {}", answer.command);
        for line in answer.stdout.lines().filter(|line| !line.is_empty()) {
            // The signature of the answer is of no interest to a reader.
            if !line.contains("\tTSIG\t") && !line.starts_with(';') {
                println!("{line}");
            }
        }
        if !answer.status.success() {
            println!("{}", answer.stderr);
        }
    }
    Ok(())
}
