//! Compiles the kernels of ../../cuda with the C++ compiler, against the CUDA headers in include/.

fn main() {
    println!("cargo:rerun-if-env-changed=CLIPPY_ARGS");
    if std::env::var_os("CLIPPY_ARGS").is_some() {
        return; // nothing is linked
    }
    for folder in ["../../cuda", "include", "src/calls.cpp"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let kernels = std::fs::read_dir("../../cuda").unwrap().map(|entry| entry.unwrap().path());
    let kernels = kernels.filter(|path| path.extension().is_some_and(|extension| extension == "cu"));
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).debug(false).include("include").flag("-xc++");
    build.files(kernels).file("src/calls.cpp");
    build.flag("-Wno-unknown-pragmas").flag("-ffp-contract=off");
    if cfg!(target_arch = "x86_64") && std::is_x86_feature_detected!("fma") {
        build.flag("-mfma"); // else every fmaf is a function call
    }
    build.compile("cusae_emu");
    println!("cargo:rustc-link-lib=dylib=pthread");
}
