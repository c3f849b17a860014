//! Steps in processes of their own: the agent's program is needed for it.

mod schema {
    mod limits;
}
