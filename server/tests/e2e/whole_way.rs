//! From an upload to a model that answers.

use serde_json::json;

use crate::running::{Running, check_curve, data_folder, is_built, start_another};

#[tokio::test]
async fn a_job_ends_with_a_model_that_predicts_downloads_and_is_made_again_bit_for_bit() {
    if !is_built("a_job_ends_with_a_model_that_predicts_downloads_and_is_made_again_bit_for_bit") {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    let request = server.prepare(60).await;
    let id = server.create(&request).await;
    let job = server.wait_for_success(&id).await;
    check_curve(&server.events(&id).await, 60);
    assert_eq!(job["attempt"], 1);
    assert!(job["metrics"]["accuracy"].is_f64(), "{job}");
    assert!(
        job["device"].as_str().unwrap().starts_with("cpu")
            || job["device"].as_str().unwrap().starts_with("cuda")
    );
    assert!(job["manifest"]["hardware"]["device"].is_string(), "{job}");
    let curves = job["result_files"][0].as_str().expect("a file of results");
    let curves = String::from_utf8(server.bytes(&format!("/v1/files/{curves}/content")).await).unwrap();
    assert!(curves.lines().count() > 60, "{curves}");

    let model = job["fine_tuned_model"].as_str().unwrap();
    let asked = json!({"model": model, "inputs": ["a good film", {"text": "a poor film"}]});
    let predicted = server.post("/v1/predictions", &asked).await;
    assert_eq!(
        (&predicted["outputs"][0]["label"], &predicted["outputs"][1]["label"]),
        (&json!("pos"), &json!("neg"))
    );
    let archive = server.bytes(&format!("/v1/models/{model}/content")).await;
    let mut archive = tar::Archive::new(archive.as_slice());
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    for needed in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(names.iter().any(|name| name.ends_with(needed)), "{needed} in {names:?}");
    }

    let again = server.create(&json!({"manifest": job["manifest"]})).await;
    let again = server.wait_for_success(&again).await;
    assert_eq!(server.weights(&again).await, server.weights(&job).await);
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_told_who_holds_it() {
    if !is_built("a_second_server_on_the_same_data_is_told_who_holds_it") {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    let (code, said) = start_another(data.path()).await;
    assert_eq!(code, Some(1));
    let holder = server.child.id().unwrap().to_string();
    assert!(said.contains("another server") && said.contains(&holder), "{said}");
    assert!(server.stop().await.success());
}
