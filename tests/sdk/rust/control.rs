//! The codec: the vectors that every language is held to, and what is refused.
#[test]
fn placeholder() {}
