mod concurrency;
mod crash;
mod lifecycle;
mod service;
mod support;
