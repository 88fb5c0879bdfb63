//! The members of a presence channel.

use std::sync::Arc;

/// Who a subscriber of a presence channel is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// The user's id; a number in Laravel's answer is its decimal text here.
    pub user_id: Arc<str>,
    /// `user_info`, JSON as Laravel wrote it; `null` where there is none.
    pub user_info: Arc<str>,
}
