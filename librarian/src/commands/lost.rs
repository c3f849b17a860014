//! `librarian lost`.

use std::path::Path;

use zones::ServerName;

use super::registry::confirm;
use crate::control;
use crate::control::words::{Loss, Request};

pub(super) fn run(
    dir: &Path,
    server: &ServerName,
    undo: bool,
    (yes, lose): (bool, Option<u64>),
    json: bool,
) -> anyhow::Result<()> {
    let name = server.to_string();
    let mut may_lose = lose.unwrap_or(0);
    if !undo {
        let loss: Loss = control::ask_patiently(dir, &Request::Loss { server: name.clone() })?;
        match yes {
            true => eprintln!("This is to {}.", question(&loss)),
            false => {
                confirm(&question(&loss), &name)?;
                // A person has read how many.
                may_lose = lose.unwrap_or(loss.lost_objects);
            }
        }
    }
    let request = Request::MarkLost {
        server: name,
        lost: !undo,
        lose: may_lose,
    };
    let loss: Loss = control::ask_patiently(dir, &request)?;
    if json {
        return super::say_json(&loss);
    }
    super::say(&described(&loss))
}

fn question(loss: &Loss) -> String {
    format!(
        "mark {} lost for good: it owns {} objects; {} of which it has a copy have no other one and are lost unless it comes back; \
         servers with copies take the others",
        loss.server, loss.owned, loss.lost_objects
    )
}

/// How a server that was marked stands.
pub(super) fn described(loss: &Loss) -> String {
    let Loss {
        server,
        lost,
        owned,
        lost_objects,
    } = loss;
    match (lost, owned, lost_objects) {
        (false, ..) => format!("{server} is not marked lost; it owns {owned} objects"),
        (true, 0, 0) => format!("{server} is marked lost and owns nothing any more"),
        (true, _, 0) => {
            format!("{server} is marked lost; servers with copies are to take the {owned} objects that it still owns")
        }
        (true, ..) => format!(
            "{server} is marked lost and still owns {owned} objects; {lost_objects} of which it has a copy have no other one: they are lost \
             unless it comes back (`librarian lost {server} --undo`)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_server_is_told_with_what_is_lost_with_it() {
        let loss = |lost, owned, lost_objects| Loss {
            server: "s2".to_owned(),
            lost,
            owned,
            lost_objects,
        };
        assert!(question(&loss(false, 7, 3)).contains("it owns 7 objects; 3 of which it has a copy have no other one"));
        for (loss, says) in [
            (loss(false, 7, 3), "s2 is not marked lost"),
            (loss(true, 0, 0), "owns nothing any more"),
            // Copies of what other lost servers own.
            (loss(true, 0, 2), "2 of which it has a copy have no other one"),
            (loss(true, 7, 0), "take the 7 objects"),
            (
                loss(true, 7, 3),
                "still owns 7 objects; 3 of which it has a copy have no other one: they are lost",
            ),
        ] {
            let text = described(&loss);
            assert!(text.contains(says), "{text}");
        }
    }
}
