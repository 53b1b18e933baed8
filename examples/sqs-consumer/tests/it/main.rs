mod sqs_server;
