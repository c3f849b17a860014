//! Installs by real processes: `agent supervise` and `agent install`, with an agent of a few lines of shell, so that it can be
//! sick at will; and `agent run` itself, under a librarian that wants another release of it.

mod install {
    mod fake;
    mod librarian;
    mod real;
    mod steps;
}
