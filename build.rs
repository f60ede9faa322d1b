//! Compiles the schemas, and lets the binary find libtorch without exported variables.

use std::path::{Path, PathBuf};
use std::{env, fs};

const SCHEMAS: [&str; 5] = [
    "proto/easq/v1/behavior.proto",
    "proto/easq/v1/questionnaire.proto",
    "proto/easq/v1/samples.proto",
    "proto/easq/v1/envelope.proto",
    "proto/easq/v1/model.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    compile_schemas()?;
    set_run_path()?;
    tell_libtorch_version();
    Ok(())
}

fn compile_schemas() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(SCHEMAS, ["proto"])?;
    prost_build::Config::new()
        // Ordered maps and shared bytes: encoding is reproducible, features are not copied.
        .btree_map(["."])
        .bytes(["."])
        .compile_fds(descriptors.clone())?;
    let encoded = prost::Message::encode_to_vec(&descriptors);
    pbjson_build::Builder::new().btree_map(["."]).register_descriptors(&encoded)?.build(&[".easq.v1"])?;
    Ok(())
}

/// The linker's run path: the build's libtorch, and `../lib` beside an installed binary.
fn set_run_path() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    let libtorch = env::var_os("LIBTORCH").map(PathBuf::from).unwrap_or_default();
    if !libtorch.join("lib/libtorch_cpu.so").exists() {
        return Err(format!(
            "no libtorch at '{}': run `make setup`, or set LIBTORCH to an unpacked libtorch",
            libtorch.display()
        )
        .into());
    }
    let lib = fs::canonicalize(Path::new(&libtorch).join("lib"))?;
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    Ok(())
}

/// `libtorch/build-version` is all that says which libtorch it is.
fn tell_libtorch_version() {
    let file = PathBuf::from(env::var_os("LIBTORCH").unwrap_or_default()).join("build-version");
    println!("cargo::rerun-if-changed={}", file.display());
    let version = fs::read_to_string(file).unwrap_or_default();
    let version = if version.trim().is_empty() { "unknown" } else { version.trim() };
    println!("cargo::rustc-env=EASQ_LIBTORCH={version}");
}
