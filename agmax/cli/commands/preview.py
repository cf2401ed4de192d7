"""--preview: draw a training batch, or the softening curves."""

from collections.abc import Callable

from agmax import builders
from agmax.cli.commands.shared import ModeResult, figure_path, print_notes
from agmax.cli.parser import Request
from agmax.config import resolve
from agmax.core import devices
from agmax.core.errors import UsageError
from agmax.core.logs import log
from agmax.core.storage import check_output, output_file
from agmax.data import sampler
from agmax.reports import preview, softening, style


def run(request: Request) -> ModeResult:
    """Draw the preview of the request."""
    return PREVIEWS[request.options["word"]](request)


def _batch(request: Request) -> ModeResult:
    """Draw the batch of the first training step, as the model receives it."""
    typed, force = resolve.layer_config(request.config_request).resolve(), request.options["force"]
    device = devices.choose_device(typed.config.train.device)
    name, dataset = typed.config.name, typed.config.dataset.name
    path = figure_path(request.options["output"], f"preview-{name}-{dataset}.png")
    check_output(path, force=force)
    print_notes(request, typed)
    data = builders.split(typed.config, "train")
    config = builders.with_num_classes(typed.config, lambda: data)
    seed, num_views = config.train.seed, config.objective.num_views
    augment = builders.augmentation(config, builders.num_steps(config, len(data.labels)))
    batches = sampler.shuffle_batches(len(data.labels), config.train.batch_size, seed=seed, epoch=0)
    loader = builders.training_loader(config, data, device)
    (raw,) = devices.prefetch(loader.batches(batches[:1], epoch=0), device)
    batch = augment(raw, step=0)
    mean, std = config.normalization
    views = "1 view" if num_views == 1 else f"{num_views} views"
    title = f"{name} on {dataset}: seed {seed}, step 0, {views} of each image"
    figure = preview.draw(batch, raw.labels, data.class_names, mean=mean, std=std, title=title)
    preview.save(figure, path, force=force)
    num_images = min(len(raw.labels), preview.NUM_IMAGES)
    log.info("%s shows %d of the %d images of step 0", path, num_images, len(raw.labels))
    return {
        "mode": "preview",
        "config": name,
        "dataset": dataset,
        "num_images": num_images,
        "num_views": num_views,
        "step": 0,
        "file": str(path),
    }


def _curves(request: Request) -> ModeResult:
    """Draw the softening curve, and a histogram of sampled visible fractions."""
    typed, force = resolve.layer_config(request.config_request).resolve(), request.options["force"]
    name, dataset = typed.config.name, typed.config.dataset.name
    path = figure_path(request.options["output"], f"softening-{name}-{dataset}.png")
    check_output(path, force=force)
    print_notes(request, typed)
    config = builders.with_num_classes(typed.config, lambda: builders.split(typed.config, "train"))
    fractions = builders.sample_visible_fractions(config)
    if fractions is None:
        why, remedy = "none of its parts softens targets", "Name soft_crop, soft_cutout or soft_random_erasing"
        raise UsageError("nothing to draw", where=name, why=why, remedy=remedy)
    curve, num_classes = builders.pipeline(config).softening, builders.num_classes(config)
    assert curve is not None, "fractions are sampled only if targets soften"
    crop_size = config.dataset.image_size if config.augment.crop == "soft" else None
    title = f"{name} on {dataset}: {num_classes} classes, {len(fractions):,} views sampled"
    figure = softening.draw(curve, fractions, num_classes=num_classes, crop_size=crop_size, title=title)
    with output_file(path, force=force) as file:
        style.save(figure, file)
    log.info("%s shows the softening curve of %s", path, name)
    return {
        "mode": "preview",
        "config": name,
        "dataset": dataset,
        "mean_visible_fraction": float(fractions.mean()),
        "mean_confidence": float(curve.confidence(fractions, num_classes).mean()),
        "file": str(path),
    }


PREVIEWS: dict[str, Callable[[Request], ModeResult]] = {"batch": _batch, "curves": _curves}
"""Word of --preview -> function."""
