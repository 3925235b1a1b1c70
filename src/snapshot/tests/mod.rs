mod backups;
mod files;
mod node;
mod replica;
mod same;
mod space;
mod support;
mod taking;
