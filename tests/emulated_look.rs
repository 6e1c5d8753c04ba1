//! The commands that look inside, with `--device emulated` and with `--device cpu`, on the embedded model and on
//! a GPT-2 folder of Hugging Face: the same answers within rounding. Needs a build with the feature `emulated`.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const DEVICES: [&str; 2] = ["cpu", "emulated"];

/// Of the larger of 1 and the number: what `scripts/parity_analysis.py` allows float32.
const TOLERANCE: f64 = 2e-5;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn command(folder: &Path, device: &str, arguments: &[String]) -> Command {
    let mut cusae = Command::new(env!("CARGO_BIN_EXE_cusae"));
    let arguments = arguments.iter().map(|argument| argument.replace("DEVICE", device));
    cusae.args(arguments).args(["--device", device, "--json", "--quiet"]).current_dir(folder);
    cusae
}

fn run(folder: &Path, device: &str, arguments: &[String]) -> Value {
    let output = command(folder, device, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?} {device}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The same JSON, numbers within [`TOLERANCE`].
fn assert_same(found: &Value, expected: &Value, at: &str) {
    match (found, expected) {
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{at}");
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| assert_same(a, b, &format!("{at}[{i}]")));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{at}");
            a.iter().for_each(|(key, value)| assert_same(value, &b[key], &format!("{at}.{key}")));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= TOLERANCE * b.abs().max(1.0), "{at}: {a}, the CPU has {b}");
        }
        _ => assert_eq!(found, expected, "{at}"),
    }
}

/// The embedded model and an SAE that is trained for it, as flags.
fn embedded(folder: &Path) -> [String; 4] {
    let trained = "train --architecture topk --k 4 --d-sae 128 --training-tokens 8192 --n-eval-batches 1 --out sae";
    run(folder, "cpu", &words(trained));
    ["--sae", "sae", "--model", "embedded"].map(str::to_string)
}

/// A GPT-2 folder and an SAE for it, likewise.
fn of_folder(folder: &Path) -> [String; 4] {
    let gpt2 = folder.join("gpt2");
    fs::create_dir(&gpt2).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(root("tests/data/gpt2-rand-tiny").join(file), gpt2.join(file)).unwrap();
    }
    fs::copy(root("assets/tinygpt2/tokenizer.json"), gpt2.join("tokenizer.json")).unwrap();
    let sae = root("tests/data/evals/trained-topk-resid/sae").display().to_string();
    ["--sae", &sae, "--model", "gpt2"].map(str::to_string)
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(|word| word.replace('~', " ")).collect()
}

/// What `cusae serve` answers to a prompt.
fn serve(folder: &Path, device: &str, page: &str, arguments: &[String]) -> Value {
    let arguments = [&words(&format!("serve --port 0 --page {page}"))[..], arguments].concat();
    let mut server = command(folder, device, &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let url = lines.find_map(|line| Some(line.unwrap().split_once("http://")?.1.split('/').next()?.to_string()));
    let answer = url.map(|host| {
        let body = r#"{"prompt": "The king went", "top": 3}"#;
        let length = body.len();
        let mut stream = TcpStream::connect(&host).unwrap();
        let head = format!("Host: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
        write!(stream, "POST /api/features HTTP/1.1\r\n{head}\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    server.kill().unwrap();
    server.wait().unwrap();
    let answer = answer.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn every_command_sees_what_it_does_on_the_cpu(subject: fn(&Path) -> [String; 4]) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("text.txt"), "The king went to the castle, and the queen spoke to the people.").unwrap();
    let flags = subject(folder);
    for line in [
        "features --prompt The~king~went",
        "attribute --prompt The~king~went --top 1_0",
        "ablate --prompt The~king~went --position -1 --top 3",
        "ablate --prompt The~king~went --feature 3 5 --no-error-term --exclude-special-tokens true",
        "steer --prompt The~king --feature 3=+4 --max-new-tokens 3",
        "compare --prompt The~king --prompt A~king --against 1~2",
    ] {
        let arguments = [&words(line)[..], &flags].concat();
        let [expected, found] = DEVICES.map(|device| run(folder, device, &arguments));
        assert_same(&found, &expected, line);
    }

    // The logits of every feature take the emulator long: two rows of eight tokens make a page.
    let page = "dashboard --text text.txt --max-tokens 1_6 --context-size 8 --out page-DEVICE";
    let arguments = [&words(page)[..], &flags].concat();
    let [expected, found] = DEVICES.map(|device| run(folder, device, &arguments));
    assert_same(&found["dead"], &expected["dead"], "dashboard");
    let fires = run(folder, "cpu", &[&words("features --prompt The~king~went --top 1")[..], &flags].concat());
    let feature = &fires["prompts"][0]["tokens"][2]["features"][0]["feature"];
    let find = words(&format!("find page-DEVICE --feature {feature}"));
    let [expected, found] = DEVICES.map(|device| run(folder, device, &find));
    assert!(expected["found"].as_u64() > Some(0), "{find:?}");
    assert_same(&found, &expected, "find");
    let [expected, found] = DEVICES.map(|device| serve(folder, device, "page-cpu", &flags));
    assert_same(&found, &expected, "serve");
}

#[test]
fn every_command_that_looks_inside_the_embedded_model_sees_what_it_does_on_the_cpu() {
    every_command_sees_what_it_does_on_the_cpu(embedded);
}

#[test]
fn every_command_that_looks_inside_a_model_of_a_folder_sees_what_it_does_on_the_cpu() {
    every_command_sees_what_it_does_on_the_cpu(of_folder);
}
