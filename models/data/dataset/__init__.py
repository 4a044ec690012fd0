"""Prepared datasets: meshes as sparse signed distance fields and renders, in shards of samples.

A dataset is a folder:

    dataset.json      settings, versions, shards with their SHA-256, and a hash of all that decides the samples
    manifest.jsonl    a line an asset, failures and duplicates too (`manifest.Entry`)
    train-00000.tar   samples in WebDataset's form: members with the sample's key before the first dot of their names

A sample has these members (`sample`):

    KEY.json                    caption, category, creator, licence, counts, cameras
    KEY.mesh.safetensors        vertices fp32 [V, 3] in [-0.95, 0.95]^3, faces int32 [F, 3]
    KEY.sdf.256.safetensors     coords int16 [V, 3], values fp32 [V], sharp bool [V]; resolution and tau in its metadata
    KEY.view.00.rgb.png         RGBA, sRGB, straight alpha
    KEY.view.00.normal.png      in the camera's frame, -1 is 0, +1 is 255
    KEY.view.00.depth.png       16 bits: 0 where nothing is, else 1 .. 65535 over the view's depth_range

Any reader of WebDataset reads the shards in sequence; `open_dataset` reads samples in any order:

    train = open_dataset("furniture", split="train", resolutions=(256,), views=False)
    loader = DataLoader(train, batch_size=4, shuffle=True, num_workers=4, collate_fn=list)
"""

from models.data.dataset.reading import PreparedDataset, Sample, View, open_dataset

__all__ = ["PreparedDataset", "Sample", "View", "open_dataset"]
