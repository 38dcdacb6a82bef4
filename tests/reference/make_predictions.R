# Predictions with standard errors by glmmTMB, for rows of the data, for the typical group, for levels
# that the model does not know, and for pairs of levels that occur together in no row.
# Rscript make_predictions.R [folder of models.json and data], needs glmmTMB, lme4 and jsonlite.
suppressMessages({library(glmmTMB); library(jsonlite)})
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE)))
source(file.path(here, "records.R"))

columns <- function(found) list(fit = unname(found$fit), se = unname(found$se.fit))

describe <- function(name, group, exchanged) {
  record <- records[[name]]
  data <- read_frame(record)
  formula <- as.formula(record$formula)
  if (name == "cbpp_logit") formula[[2]] <- quote(cbind(incidence, size - incidence))
  environment(formula) <- environment()
  model <- do.call(glmmTMB, list(formula, data = data, family = record$family, control = tight))
  rows <- data[1:12, ]
  unseen <- rows
  unseen[[group]] <- factor(rep("unseen", 12))
  given <- function(...) columns(predict(model, se.fit = TRUE, ...))
  found <- list(id = name, group = group, link = given(newdata = rows, type = "link"),
                response = given(newdata = rows, type = "response"),
                typical = given(newdata = rows, type = "link", re.form = NA),
                unseen = given(newdata = unseen, type = "link", allow.new.levels = TRUE))
  if (length(exchanged)) {
    mixed <- rows
    mixed[[exchanged]] <- rev(data[[exchanged]])[1:12]
    found$exchanged <- exchanged
    found$mixed <- given(newdata = mixed, type = "link")
  }
  found
}

found <- list(
  describe("cbpp_logit", "herd", character()),
  describe("contraception_slope", "district", character()),
  describe("grouseticks_three", "LOCATION", "LOCATION"))
document <- list(
  versions = list(R = R.version.string, glmmTMB = as.character(packageVersion("glmmTMB"))),
  models = found)
writeLines(toJSON(document, auto_unbox = TRUE, digits = 10, pretty = 1),
           file.path(folder, "predictions.json"))
