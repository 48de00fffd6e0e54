//! The official `openai` clients, unmodified, from an upload to a tuned model that answers.

use crate::decoder::tiny_llama;
use crate::running::{Running, data_folder, is_built};
use crate::script::{self, ends_well, python};

#[tokio::test]
async fn official_clients_tune_a_language_model_and_talk_with_it() {
    let name = "official_clients_tune_a_language_model_and_talk_with_it";
    if !is_built(name) {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    server.upload_model("llama", tiny_llama().path()).await;
    for variable in ["LUTHIER_REFERENCE_PYTHON", "LUTHIER_OPENAI1_PYTHON"] {
        let Some(python) = python(name, variable) else { continue };
        let base = format!("{}/v1", server.base);
        let output = script::command(&python, "language_model.py", &base).output().await.unwrap();
        ends_well(&output);
    }
    assert!(server.stop().await.success());
}
