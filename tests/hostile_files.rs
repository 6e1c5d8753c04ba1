//! Files that are not what they seem: cut off, foreign, renamed, absurd, or made to do harm. Each is
//! answered with one sentence; nothing is run, nothing is allocated on a claim alone.

use cusae::formats::archive::Archive;
use cusae::formats::pickle::Pickle;
use cusae::formats::tensors::Tensor;
use cusae::formats::{self, arrays, torch};
use flate2::{write::DeflateEncoder, Compression, Crc};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats").join(name)
}

const OPENAI: &str = "openaipublic/sparse-autoencoder/gpt2-small/v5_32k.pt";
const LEGACY: &str = "ckkissane/attn-saes-gpt2-small-all-layers/gpt2-small_L1_Hcat_z_lr1.20e-03_v9.pt";
const NPZ: &str = "google/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_7/params.npz";
const PACKED_NPZ: &str = "google/gemma-scope-9b-it-res/layer_20/width_16k/average_l0_9/params.npz";

/// The sentence that answers a file of these bytes.
fn refusal(name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let message = formats::load(&path, None).map(drop).unwrap_err().to_string();
    assert!(message.starts_with(path.to_str().unwrap()), "{message}");
    assert!(!message.contains('\n'), "{message}");
    message[path.to_str().unwrap().len()..].to_string()
}

/// An entry of an archive, and lies about it.
struct Entry<'a> {
    name: &'a str,
    bytes: &'a [u8],
    size: u32,
    method: u16,
}

fn stored<'a>(name: &'a str, bytes: &'a [u8]) -> Entry<'a> {
    Entry { name, bytes, size: bytes.len() as u32, method: 0 }
}

/// An archive of these entries; the checksums are of the bytes as they stand.
fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let mut crc = Crc::new();
        crc.update(entry.bytes);
        let at = out.len() as u32;
        let mut common = [10, 0, entry.method, 0, 0].iter().flat_map(|x: &u16| x.to_le_bytes()).collect::<Vec<u8>>();
        common.extend([crc.sum(), entry.bytes.len() as u32, entry.size].iter().flat_map(|x| x.to_le_bytes()));
        common.extend([entry.name.len() as u16, 0].iter().flat_map(|x| x.to_le_bytes()));
        out.extend([b"PK\x03\x04", &common[..], entry.name.as_bytes(), entry.bytes].concat());
        directory
            .extend([b"PK\x01\x02\x0a\x00", &common[..], &[0; 10], &at.to_le_bytes(), entry.name.as_bytes()].concat());
    }
    let (count, start) = ((entries.len() as u16).to_le_bytes(), (out.len() as u32).to_le_bytes());
    let length = (directory.len() as u32).to_le_bytes();
    out.extend([&directory[..], b"PK\x05\x06\0\0\0\0", &count, &count, &length, &start, &[0, 0]].concat());
    out
}

/// The header of an `.npy` file of f32.
fn npy(shape: &str) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes
}

/// A file of torch with this pickle.
fn torch_zip(pickle: &[u8]) -> Vec<u8> {
    zip(&[stored("x/data.pkl", pickle), stored("x/data/0", &[0; 16])])
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_pickle_that_would_run_code_is_refused_by_the_name_of_what_it_asks_for() {
    let marker = Path::new("/tmp/cusae-has-run-code");
    for name in ["hostile/runs_code.pt", "hostile/runs_code_legacy.pt"] {
        let message = torch::open(&data(name)).map(drop).unwrap_err().to_string();
        let expected = "its pickle asks for posix.system, and nothing is run from a file: only tensors and plain \
                        containers are read; save a state_dict() or safetensors";
        assert!(message.ends_with(expected), "{message}");
        assert!(!marker.exists());
    }
    let message = formats::load(&data("hostile/module.pt"), None).unwrap_err().to_string();
    assert!(message.contains("its pickle asks for torch.nn.modules.linear.Linear, and nothing is run"), "{message}");
    let message = formats::load(&data("hostile/program.pt"), None).unwrap_err().to_string();
    assert!(message.ends_with("is a TorchScript program; save a state_dict() or safetensors instead"), "{message}");
}

#[test]
fn every_way_to_make_an_object_is_refused() {
    let of = |pickle: &[u8]| Pickle::read(pickle).unwrap_err();
    assert!(of(b"\x80\x02cbuiltins\neval\n.").contains("asks for builtins.eval"));
    assert!(of(b"\x80\x04\x8c\x02os\x8c\x06system\x93.").contains("asks for os.system"));
    for making in [b"(ios\nsystem\n.".as_slice(), b"(co\n", b"N)\x81.", b"N)}\x92."] {
        assert!(!of(making).is_empty());
    }
    assert!(of(b"(ios\nsystem\n.").contains("would make an object of a class"));
    assert!(of(b"NN)\x81.").contains("would make an object of a class"));
    // Called with other arguments than torch's own, even what is allowed makes nothing.
    assert!(of(b"ccollections\nOrderedDict\n(K\x01tR.").contains("calls collections.OrderedDict with 1 arguments"));
    assert!(of(b"N)R.").contains("calls what is no name"));
    assert!(of(b"N}b.").contains("sets the state of an object"));
}

#[test]
fn files_that_are_cut_off_are_said_to_be() {
    for name in [OPENAI, LEGACY, NPZ, PACKED_NPZ] {
        let whole = std::fs::read(data(name)).unwrap();
        let file = Path::new(name).file_name().unwrap().to_str().unwrap();
        for cut in [0, 1, 3, 30, 100, whole.len() / 2, whole.len() - 1] {
            let message = refusal(file, &whole[..cut]);
            assert!(
                message.contains("fetch or write it again") || message.contains("not a file of torch.save"),
                "{message}"
            );
        }
    }
}

#[test]
fn no_byte_changed_in_a_file_or_pickle_is_more_than_a_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(data(OPENAI)).unwrap();
    let path = folder.path().join("v5_32k.pt");
    // The head with the pickle, and the tail with the directory; the rest is numbers.
    for at in (0..1500).chain(whole.len() - 1500..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        let _either = formats::load(&path, None);
    }
    let archive = Archive::read(&path, &whole).unwrap();
    let pickle = archive.entries().iter().find(|entry| entry.name.ends_with("data.pkl")).unwrap();
    let pickle = pickle.content(&path, &whole).unwrap();
    for at in 0..pickle.len() {
        for value in [0, b'.', b'R', b'u', b'e', b't', b'h', b'0', 0x81, 0x8a, 0x94, 0xff] {
            let mut bytes = pickle.to_vec();
            bytes[at] = value;
            if let Ok(pickle) = Pickle::read(&bytes) {
                let _either = pickle.entries();
            }
        }
    }
}

#[test]
fn claims_of_2_to_the_60_elements_are_held_against_the_file() {
    let huge = npy("(1152921504606846976,)");
    let message = refusal("params.npz", &zip(&[stored("w_enc.npy", &huge)]));
    assert_eq!(
        message,
        ": entry \"w_enc.npy\" holds 0 bytes, its shape [1152921504606846976] of F32 takes another size"
    );
    let beyond = npy("(4611686018427387904, 4611686018427387904)");
    let message = refusal("params.npz", &zip(&[stored("w_enc.npy", &beyond)]));
    assert!(message.contains("its shape has more elements than can be counted"), "{message}");
    // A header that claims to be longer than the file.
    let long = b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}";
    let message = refusal("params.npz", &zip(&[stored("w_enc.npy", long)]));
    assert!(message.contains("its header claims 4294967295 bytes"), "{message}");
    // An entry that claims more than the file.
    let claims = Entry { size: 0xffff_fff0, ..stored("w_enc.npy", b"abc") };
    assert_eq!(refusal("params.npz", &zip(&[claims])), ": entry \"w_enc.npy\" claims 4294967280 bytes and holds 3");

    // _rebuild_tensor_v2 of a storage of 4 elements with a size of 2^60, and with a stride that repeats one.
    let tensor = |size: &[u8], stride: &[u8]| {
        let storage = b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";
        [b"\x80\x02}(X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n", &storage[..], b"K\0", size, stride, b"\x89NtRu."]
            .concat()
    };
    let two_to_the_60 = b"\x8a\x08\0\0\0\0\0\0\0\x10\x85";
    for stride in [b"K\x01\x85".as_slice(), b"K\0\x85"] {
        let message = refusal("a.pt", &torch_zip(&tensor(two_to_the_60, stride)));
        let expected = ": tensor a of shape [1152921504606846976] reaches beyond its storage of 4 elements; fetch or write it again";
        assert_eq!(message, expected);
    }
    let fits = torch_zip(&tensor(b"K\x04\x85", b"K\x01\x85"));
    assert!(refusal("a.pt", &fits).contains("holds a, which is no SAE of a known layout"));
    // A tensor of nothing, far behind its storage: BININT1 0 is the offset.
    let mut behind = tensor(b"K\0\x85", b"K\x01\x85");
    let offset = behind.windows(4).position(|four| four == b"tQK\0").unwrap() + 3;
    behind[offset] = 200;
    assert!(refusal("a.pt", &torch_zip(&behind)).contains("reaches beyond its storage of 4 elements"));
    let negative = refusal("a.pt", &torch_zip(&tensor(b"J\xff\xff\xff\xff\x85", b"K\x01\x85")));
    assert!(negative.contains("a tensor with a size or stride of -1"), "{negative}");
}

#[test]
fn zip_bombs_are_not_inflated() {
    let zeros = vec![0; 32 << 20];
    let packed = deflated(&zeros);
    let bomb = Entry { name: "w_enc.npy", bytes: &packed, size: zeros.len() as u32, method: 8 };
    let message = refusal("params.npz", &zip(&[bomb]));
    assert!(
        message.contains("claims to grow from ") && message.contains(" to 33554432 bytes, as zip bombs do"),
        "{message}"
    );
    // One that says little and holds more.
    let sly = Entry { name: "w_enc.npy", bytes: &packed, size: 1000, method: 8 };
    let message = refusal("params.npz", &zip(&[sly]));
    assert!(message.contains("does not inflate to the 1000 bytes it claims"), "{message}");

    // Many that are small, each.
    let zeros = vec![0; 8 << 20];
    let packed = deflated(&zeros);
    let names: Vec<String> = (0..3).map(|n| format!("{n}.npy")).collect();
    let many = names.iter().map(|name| Entry { name, bytes: &packed, size: zeros.len() as u32, method: 8 });
    let message = refusal("params.npz", &zip(&many.collect::<Vec<_>>()));
    assert!(message.contains("its entries claim to grow to 25165824 bytes together, as zip bombs do"), "{message}");

    // Two entries in the same bytes: the second's place in the directory is set to the first's.
    let mut twice = zip(&[stored("a.npy", &[7; 4096]), stored("b.npy", &[7; 4096])]);
    let second = twice.windows(4).rposition(|four| four == b"PK\x01\x02").unwrap();
    let first = twice.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    twice.copy_within(first + 42..first + 46, second + 42);
    // Both fit the file once the other's bytes are gone.
    let cut: Vec<u8> = twice[..30 + 5 + 4096].iter().chain(&twice[first..]).copied().collect();
    let mut cut = cut;
    let end = cut.len() - 22;
    let start = (30 + 5 + 4096u32).to_le_bytes();
    cut[end + 16..end + 20].copy_from_slice(&start);
    assert!(refusal("params.npz", &cut).contains("its entries lie in one another"));
}

#[test]
fn names_that_point_outside_or_come_twice_are_refused() {
    let array = [npy("(1,)"), vec![0; 4]].concat();
    for name in ["../../w_enc.npy", "/etc/w_enc.npy", "a/../w_enc.npy", "..\\w_enc.npy", "C:w_enc.npy"] {
        let message = refusal("params.npz", &zip(&[stored(name, &array)]));
        assert!(message.contains("points outside of the archive"), "{message}");
    }
    let message = refusal("params.npz", &zip(&[stored("a.npy", &array), stored("a.npy", &array)]));
    assert_eq!(message, ": entry \"a.npy\" comes twice; write it again");
}

#[test]
fn foreign_and_renamed_files_are_told_apart() {
    let png = b"\x89PNG\r\n\x1a\n and so on";
    assert!(refusal("ae.pt", png).ends_with("is not a file of torch.save (neither a zip archive nor its older form)"));
    assert!(refusal("params.npz", png).contains("not a whole zip archive (18 bytes found)"));
    let npz = std::fs::read(data(NPZ)).unwrap();
    assert!(refusal("ae.pt", &npz).ends_with("is a zip archive without a data.pkl, expected a file of torch.save"));
    let pt = std::fs::read(data(OPENAI)).unwrap();
    let message = refusal("params.npz", &pt);
    assert!(message.ends_with("is no .npy file, expected what numpy.savez writes"), "{message}");
    let weights = zip(&[stored("a.txt", b"abc")]);
    assert!(refusal("params.npz", &weights).starts_with(": entry \"a.txt\" is no .npy file"));
    let packed = Entry { method: 12, ..stored("a.npy", b"abc") };
    assert!(refusal("params.npz", &zip(&[packed])).contains("is packed by method 12, expected stored or deflated"));
}

#[test]
fn a_damaged_entry_is_found_by_its_checksum() {
    for name in [OPENAI, NPZ] {
        let mut bytes = std::fs::read(data(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let message = refusal(Path::new(name).file_name().unwrap().to_str().unwrap(), &bytes);
        assert!(message.contains("is damaged (its checksum differs); fetch or write it again"), "{message}");
    }
}

/// A folder that dictionary_learning wrote, to be spoilt.
fn dictionary() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["ae.pt", "config.json"] {
        let from = data("canrager/lm_sae/AutoEncoderTopK/resid_post_layer_8/trainer_0").join(file);
        std::fs::copy(from, folder.path().join(file)).unwrap();
    }
    folder
}

/// Writes the folder's tensors again, one of them changed.
fn spoil(folder: &Path, change: impl Fn(&str, Vec<usize>, Vec<f32>) -> Option<(Vec<usize>, Vec<f32>)>) -> String {
    let path = folder.join("ae.pt");
    let file = arrays::open(&path).unwrap();
    let mut tensors = Vec::new();
    for name in file.names() {
        if name == "k" {
            tensors.push((name, Tensor::i64(&[], &[6])));
            continue;
        }
        let (shape, values) = (file.shape(&name).unwrap().to_vec(), file.f32(&name).unwrap());
        let Some((shape, values)) = change(&name, shape, values) else { continue };
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push((name, Tensor { dtype: safetensors::Dtype::F32, shape, bytes: bytes.into() }));
    }
    torch::save(&path, &tensors, &[]).unwrap();
    let message = formats::load(folder, None).unwrap_err().to_string();
    message[path.to_str().unwrap().len()..].to_string()
}

#[test]
fn weights_that_do_not_fit_or_are_not_finite_are_named() {
    let message = spoil(dictionary().path(), |name, shape, mut values| {
        if name == "decoder.weight" {
            values[17] = f32::NAN;
        }
        Some((shape, values))
    });
    // decoder.weight [12, 40] is turned: value 17 of row 0 is value 17 * 12 of W_dec.
    assert_eq!(message, ": tensor W_dec holds NaN as its value number 204; an SAE with it computes nothing else");
    let message = spoil(dictionary().path(), |name, shape, values| (name != "encoder.bias").then_some((shape, values)));
    assert!(message.starts_with(": tensor b_enc is missing; the file holds "), "{message}");
    let message = spoil(dictionary().path(), |name, shape, values| match name {
        "b_dec" => Some((vec![11], values[..11].to_vec())),
        _ => Some((shape, values)),
    });
    assert_eq!(message, ": b_dec has shape [11], expected [12]; fetch or write it again");
    let message = spoil(dictionary().path(), |name, shape, values| match name {
        "encoder.weight" => Some((vec![480], values)),
        _ => Some((shape, values)),
    });
    assert_eq!(message, ": tensor encoder.weight has shape [480], expected a matrix with values");
}

#[test]
fn settings_that_do_not_fit_are_named() {
    let folder = dictionary();
    let config = folder.path().join("config.json");
    std::fs::write(&config, r#"{"trainer": {"dict_class": "IdentityDict"}, "buffer": {}}"#).unwrap();
    let message = formats::load(folder.path(), None).unwrap_err().to_string();
    assert!(message.contains("class IdentityDict is not known; AutoEncoder, AutoEncoderNew, "), "{message}");
    std::fs::remove_file(&config).unwrap();
    let message = formats::load(folder.path(), None).unwrap_err().to_string();
    assert!(message.contains("add the config.json that names the class as trainer.dict_class"), "{message}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sae.safetensors");
    std::fs::copy(data("EleutherAI/sae-pythia-70m/layers.3/sae.safetensors"), &file).unwrap();
    let with = |cfg: &str| {
        std::fs::write(folder.path().join("cfg.json"), cfg).unwrap();
        formats::load(folder.path(), None).unwrap_err().to_string()
    };
    assert!(with(r#"{"k": 49}"#).ends_with("k is 49, expected at most the number of latents, 48"));
    assert!(with(r#"{"k": -1}"#).ends_with("k is -1, expected a whole number above 0"));
    assert!(with("{}").ends_with("key k is missing; fetch or write it again"));
    assert!(with("{").contains("cfg.json: not JSON: "));
    let message = with(r#"{"k": 5, "activation": "groupmax"}"#);
    assert!(
        message.ends_with("activation is \"groupmax\", expected topk, the only one that is supported"),
        "{message}"
    );
}

#[test]
fn a_tensor_that_was_saved_for_torch_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pt");
    let tensors = [
        ("a".to_string(), Tensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("k".into(), Tensor::i64(&[], &[7])),
    ];
    let values = [("name", "TopK".into()), ("state", serde_json::json!({"k": 5, "rate": 0.5, "on": true}))];
    torch::save(&path, &tensors, &values).unwrap();
    let file = torch::open(&path).unwrap();
    assert_eq!(file.tensors.f32_shaped("a", &[2, 3]).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(file.tensors.u32("k").unwrap(), [7]);
    let expected = serde_json::json!({"name": "TopK", "state.k": 5, "state.rate": 0.5, "state.on": true});
    assert_eq!(serde_json::Value::Object(file.values), expected);
    let refused = torch::save(&path, &[("a".to_string(), Tensor::u32(&[1], &[1]))], &[]).unwrap_err().to_string();
    assert!(refused.ends_with("a tensor of U32 cannot be written for torch"), "{refused}");
}
