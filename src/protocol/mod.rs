//! (room not furnished yet)
pub mod http1;
pub mod uwsgi;
