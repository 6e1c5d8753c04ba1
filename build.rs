//! Compiles cuda/*.cu with nvcc, CUDA's runtime linked statically. Without nvcc the crate is CPU-only:
//! said here, and at run time by `cusae info`. NVCC, CUDA_HOME or CUDA_PATH say where nvcc is;
//! CUSAE_REQUIRE_CUDA=1 makes its absence an error.

use std::path::PathBuf;
use std::{env, fs, process::Command, sync::Mutex, thread};

/// Files named *_sm90.cu use what only Hopper has.
const HOPPER: &[&str] = &["arch=compute_90a,code=sm_90a"];
/// All others: machine code for 8.x and 9.0, PTX for what comes later.
const PORTABLE: &[&str] = &["arch=compute_80,code=[sm_80,compute_80]", "arch=compute_90a,code=sm_90a"];

fn main() {
    println!("cargo:rustc-check-cfg=cfg(has_cuda)\ncargo:rerun-if-changed=cuda");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUSAE_REQUIRE_CUDA"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let Some(nvcc) = find_nvcc() else {
        assert!(env::var("CUSAE_REQUIRE_CUDA").as_deref() != Ok("1"), "nvcc not found: set CUDA_HOME or NVCC");
        println!("cargo:warning=nvcc not found, building without CUDA: set CUDA_HOME, or see scripts/install_nvcc.sh");
        return;
    };
    env::set_var("NVCC", &nvcc); // where cc looks for it
    let files = Mutex::new(fs::read_dir("cuda").unwrap().map(|entry| entry.unwrap().path()));
    let worker = || std::iter::from_fn(|| files.lock().unwrap().next()).flat_map(compile).collect::<Vec<_>>();
    let objects = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..thread::available_parallelism().map_or(1, Into::into)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    cc::Build::new().cpp(true).objects(objects).compile("cusae_cuda");
    if let Some(root) = nvcc.ancestors().nth(2) {
        for folder in ["lib64", "lib", "targets/x86_64-linux/lib"] {
            println!("cargo:rustc-link-search=native={}", root.join(folder).display());
        }
    }
    for library in ["static=cudart_static", "dylib=dl", "dylib=rt", "dylib=pthread"] {
        println!("cargo:rustc-link-lib={library}");
    }
    println!("cargo:rustc-cfg=has_cuda");
}

/// One file by itself, since cc makes several relocatable device code, which links no mixed architectures.
/// -fmad=false: a product and a sum are fused where the code says so, here as in the emulator.
fn compile(file: PathBuf) -> Vec<PathBuf> {
    if file.extension().is_none_or(|extension| extension != "cu") {
        return Vec::new();
    }
    let mut build = cc::Build::new();
    build.cuda(true).cudart("none").std("c++17").debug(false).opt_level(3).warnings(false).flag("-fmad=false");
    for architecture in if file.to_string_lossy().ends_with("_sm90.cu") { HOPPER } else { PORTABLE } {
        build.flag("-gencode").flag(architecture);
    }
    build.file(file).compile_intermediates()
}

fn find_nvcc() -> Option<PathBuf> {
    let roots = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr"].map(PathBuf::from);
    let works = |nvcc: &PathBuf| Command::new(nvcc).arg("--version").output().is_ok_and(|out| out.status.success());
    let named = env::var_os("NVCC").map(|name| in_path(name.into()));
    named.into_iter().chain(roots.chain(usual).map(|root| root.join("bin/nvcc"))).find(works)
}

/// Where a program is: a bare name, as `nvcc`, in the folders of PATH.
fn in_path(program: PathBuf) -> PathBuf {
    let folders = env::var_os("PATH").filter(|_| program.components().count() == 1).unwrap_or_default();
    env::split_paths(&folders).map(|folder| folder.join(&program)).find(|file| file.is_file()).unwrap_or(program)
}
