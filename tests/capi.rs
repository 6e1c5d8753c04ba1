//! The C interface from the outside: C programs, compiled against `include/cusae.h` and linked with the
//! library that `capi/` makes. Needs `cc`, `c++` and `nm`, as gcc brings them.

use cusae::capi::{FeaturesView, LossView, ReportView, Sizes, Status};
use std::collections::BTreeSet;
use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Cargo puts the libraries beside the tests.
fn library_folder() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a command prints. It must succeed.
fn run(command: &mut Command) -> String {
    let output = output(command);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text.concat());
    assert_eq!(text[1], "", "{command:?}");
    text.into_iter().next().unwrap()
}

/// A compiler with all warnings as errors.
fn compiler(name: &str, standard: &str) -> Command {
    let mut command = Command::new(name);
    command.args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-D_POSIX_C_SOURCE=200809L"]);
    command.arg("-I").arg(root().join("include"));
    command
}

fn source(name: &str) -> PathBuf {
    root().join("tests/capi").join(name)
}

/// Compiles a C program and links it with the shared library.
fn build(name: &str, folder: &Path) -> PathBuf {
    let (program, library) = (folder.join(name), library_folder());
    let search = format!("-Wl,-rpath,{}", library.display());
    let mut compile = compiler("cc", "-std=c99");
    compile.arg(source(&format!("{name}.c"))).arg("-o").arg(&program);
    run(compile.arg("-L").arg(&library).arg(search).args(["-lcusae", "-lpthread", "-lm"]));
    program
}

#[test]
fn a_c_program_computes_what_saelens_computes_trains_saves_and_loads() {
    let folder = tempfile::tempdir().unwrap();
    let program = build("use", folder.path());
    let devices: &[&str] = if cfg!(feature = "emulated") { &["cpu", "emulated"] } else { &["auto", "cpu"] };
    for device in devices {
        let out = folder.path().join(format!("of-{device}"));
        fs::create_dir(&out).unwrap();
        run(Command::new(&program).arg(device).arg(root().join("tests/data/saes")).arg(out));
    }
}

#[test]
fn misuse_from_c_is_a_status_and_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let program = build("misuse", folder.path());
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    run(Command::new(program).arg(root().join("tests/data/saes")).arg(out));
}

#[test]
fn the_programs_and_the_header_are_also_cpp17() {
    for name in ["use.c", "misuse.c", "layout.c"] {
        run(compiler("c++", "-std=c++17").args(["-fsyntax-only", "-x", "c++"]).arg(source(name)));
    }
}

#[test]
fn the_structs_and_numbers_of_the_header_are_those_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let printed = run(&mut Command::new(build("layout", folder.path())));
    macro_rules! layout {
        ($c:literal, $rust:ty, $($field:ident),+) => {{
            let mut lines = vec![format!("{} {}", $c, size_of::<$rust>())];
            lines.extend([$(format!("{}.{} {}", $c, stringify!($field), offset_of!($rust, $field))),+]);
            lines
        }};
    }
    let expected = [
        layout!("cusae_sizes", Sizes, d_in, d_out, d_sae),
        layout!("cusae_features", FeaturesView, rows, entries, indptr, indices, values, row_scale, row_shift),
        layout!("cusae_loss", LossView, name, value),
        layout!(
            "cusae_report",
            ReportView,
            step,
            overall_loss,
            l0,
            explained_variance,
            grad_norm,
            n_dead,
            losses,
            n_losses
        ),
        vec![format!("enum cusae_memory {}", size_of::<i32>())],
        [
            ("CUSAE_OK", Status::Ok),
            ("CUSAE_ERROR_ARGUMENT", Status::Argument),
            ("CUSAE_ERROR_CONFIG", Status::Config),
            ("CUSAE_ERROR_IO", Status::Io),
            ("CUSAE_ERROR_FORMAT", Status::Format),
            ("CUSAE_ERROR_SHAPE", Status::Shape),
            ("CUSAE_ERROR_DEVICE", Status::Device),
            ("CUSAE_ERROR_KERNEL", Status::Kernel),
            ("CUSAE_ERROR_NON_FINITE", Status::NonFinite),
            ("CUSAE_ERROR_INTERNAL", Status::Internal),
        ]
        .map(|(name, status)| format!("{name} {}", status as i32))
        .to_vec(),
    ];
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected.concat());
}

/// Names `cusae_…` that are followed by an opening parenthesis.
fn functions(text: &str) -> BTreeSet<String> {
    let starts = text.match_indices("cusae_").map(|(start, _)| &text[start..]);
    let name = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
        rest[end..].starts_with('(').then(|| rest[..end].to_string())
    };
    starts.filter_map(name).collect()
}

#[test]
fn the_library_exports_what_the_header_declares_and_the_programs_call_all_of_it() {
    let header = fs::read_to_string(root().join("include/cusae.h")).unwrap();
    let declarations = header.split_once("#define CUSAE_H").unwrap().1;
    let without_comments: String =
        declarations.split("/*").map(|part| part.split_once("*/").map_or(part, |(_comment, code)| code)).collect();
    let declared = functions(&without_comments);
    assert!(declared.len() > 20, "{declared:?}");
    let symbols = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library_folder().join("libcusae.so")));
    let exported =
        symbols.lines().filter_map(|line| line.split_whitespace().last()).filter(|name| name.starts_with("cusae_"));
    assert_eq!(exported.map(String::from).collect::<BTreeSet<_>>(), declared);
    let called = functions(&["use.c", "misuse.c"].map(|name| fs::read_to_string(source(name)).unwrap()).concat());
    let not_called: Vec<_> = declared.difference(&called).filter(|name| *name != "cusae_error_text").collect();
    assert!(not_called.is_empty(), "{not_called:?}");
}

#[test]
fn a_program_links_with_the_static_library() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("misuse");
    let mut compile = compiler("cc", "-std=c99");
    compile.arg(source("misuse.c")).arg(library_folder().join("libcusae.a")).arg("-o").arg(&program);
    // With CUDA its runtime is in the library, which is C++.
    run(compile.args(["-lpthread", "-lm", "-ldl", "-lrt", "-lstdc++"]));
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    run(Command::new(program).arg(root().join("tests/data/saes")).arg(out));
}
