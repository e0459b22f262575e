// In Nodes 2.0, front ends before 1.40 or so take the clip of a node without a VIDEO input for a picture and fail to show it.
import { app } from "../../scripts/app.js";

const VIDEO_NODES = ["SAV_SaveClip", "SAV_DecodeAndSaveClip"];

app.registerExtension({
  name: "SDXLAnimeVideo.VideoPreview",
  nodeCreated(node) {
    if (VIDEO_NODES.includes(node.comfyClass)) node.previewMediaType = "video";
  },
});
