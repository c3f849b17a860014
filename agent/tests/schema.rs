//! Schemas and steps with the agent's own program as the process that runs them.

mod schema {
    mod command;
    mod limits;
    mod real;
}
