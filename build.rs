//! Generates the gRPC code from `proto/`, with no `protoc` needed, and keeps the descriptors for server reflection.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut protos: Vec<PathBuf> = fs::read_dir("proto/steadfast/v1")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, std::io::Error>>()?;
    protos.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    protos.sort();

    // Imports and comments are included: reflection needs the first, and `grpcurl describe` shows the second.
    let descriptors = protox::compile(&protos, ["proto"])?;
    let out_dir = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(Path::new(&out_dir).join("descriptor.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        // Ordered maps: the same message always has the same bytes.
        .btree_map(".")
        .codec_path("crate::api::codec::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}
