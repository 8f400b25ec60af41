"""Style of the pages: the project's colors, the system's fonts, tables and bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.plots.figures import BLUE

if TYPE_CHECKING:
    import gradio as gr

SANS = ("system-ui", "sans-serif")  # as plain names: as Gradio's own fonts they would be asked of Google
MONO = ("ui-monospace", "monospace")
STYLE = f"""
.gradio-container {{ width: 100% !important; max-width: 1200px !important; margin: 0 auto !important; }}
footer {{ display: none !important; }}
.answer table, .answer tr {{ width: 100%; border: 0 !important; border-collapse: collapse; margin: 0; }}
.answer th, .answer td {{ padding: 5px 10px 5px 0; text-align: left; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important;
  font-variant-numeric: tabular-nums; vertical-align: middle; }}
.answer th {{ font-weight: 600; color: var(--body-text-color-subdued); }}
.answer .bar {{ display: inline-block; width: 90px; height: 9px; margin-right: 8px; border-radius: 2px;
  background: var(--border-color-primary); }}
.answer .bar > i {{ display: block; height: 100%; border-radius: 2px; background: {BLUE}; }}
.answer .chosen {{ font-weight: 700; }}
.answer .scroll {{ overflow-x: auto; }}
.answer img.frame {{ display: block; width: 100%; max-width: 600px; margin: 0 auto 8px; border-radius: 4px;
  border: 1px solid var(--border-color-primary); }}
.answer p {{ margin: 6px 0; }}
.answer .words {{ margin-top: 16px; line-height: 2; }}
.answer .words span {{ padding: 2px 5px; border-radius: 3px; margin-right: 2px; display: inline-block; line-height: 1.3; }}
.input-image img {{ width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated; }}
.about p {{ margin: 2px 0; }}
.about .checkpoint {{ color: var(--body-text-color-subdued); font-size: 0.9em; overflow-wrap: anywhere; }}
@media (max-width: 600px) {{
  .answer .bar {{ width: 36px; }}
  .plot img {{ margin-top: 26px; }}
  .answer th, .answer td {{ padding-right: 6px; font-size: 0.85em; }}
  .answer td:first-child {{ min-width: 90px; }}
}}
"""


def new_theme() -> gr.themes.Base:
    """Theme of the pages."""
    import gradio as gr

    return gr.themes.Base(primary_hue="blue", neutral_hue="gray", font=SANS, font_mono=MONO)
