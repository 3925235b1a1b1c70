mod files;
mod support;
