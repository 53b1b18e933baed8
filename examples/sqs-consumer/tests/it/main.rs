//! What a consumer promises, on a server of its own: the module has the name by which tests without it are left out.

mod sqs_server;
