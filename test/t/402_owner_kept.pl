# A system changes what it owns; before the hub has heard of it, it is sent a change of another field. Its
# own must not be overwritten with what the hub still believes.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('owner_kept', systems => ['crm']);
my $sandbox = $hub->sandbox;

sub there { my ($id) = @_; return $sandbox->rest(GET => "/customers/$id") }

my $id = $hub->value(q(INSERT INTO app.customer (name, billing_email) VALUES ('Aster', 'a@example.com') RETURNING id));
$hub->wait_idle;
my $remote = $hub->value("SELECT sync.remote_id('customer', '$id', 'crm')");
is(there($remote)->{name}, 'Aster', 'a new record is sent whole');

# Nobody owns the name yet: ours is sent, and theirs is gone. This is what ownership is for.
$sandbox->rest(PATCH => "/customers/$remote", { name => 'Renamed there' });
$hub->sql("UPDATE app.customer SET billing_email = 'b\@example.com' WHERE id = '$id'");
$hub->wait_idle;
is(there($remote)->{name}, 'Aster', 'what nobody owns is overwritten');

$hub->sql(q(SELECT sync.set_owner('customer', 'name', 'crm', 'ignore')));
$sandbox->rest(PATCH => "/customers/$remote", { name => 'Renamed there' });
$hub->sql("UPDATE app.customer SET billing_email = 'c\@example.com' WHERE id = '$id'");
$hub->wait_idle;
is(there($remote)->{email}, 'c@example.com', 'the other field arrives');
is(there($remote)->{name}, 'Renamed there', 'and their name is theirs');

# The hub learns of it, and goes on.
$hub->sql(q(SELECT sync.create_stream('crm', 'customer'); SELECT sync.request_pull('crm', 'customer')));
$hub->wait_idle;
is($hub->value("SELECT name FROM app.customer WHERE id = '$id'"), 'Renamed there', 'the hub takes it over');
$hub->sql("UPDATE app.customer SET billing_email = 'd\@example.com' WHERE id = '$id'");
$hub->wait_idle;
is(there($remote)->{email}, 'd@example.com', 'and changes of ours still arrive');

# Nobody's again: at once, without a restart.
$hub->sql(q(SELECT sync.drop_owner('customer', 'name')));
$hub->sql("UPDATE app.customer SET name = 'Ours again' WHERE id = '$id'");
$hub->wait_idle;
is(there($remote)->{name}, 'Ours again', 'without an owner the name is sent again');

# The system owns everything: there is nothing to send, and nothing stands still.
$hub->sql(q(SELECT sync.set_owner('customer', '*', 'crm', 'correct')));
$hub->sql("UPDATE app.customer SET tax_exempt = 'exempt' WHERE id = '$id'");
$hub->wait_idle;
is(there($remote)->{name}, 'Ours again', 'of what is all theirs nothing is sent');
is($hub->value(q(SELECT count(*) FROM sync.delivery WHERE state NOT IN ('done', 'ignored'))), 0, 'and no delivery is held');
is($hub->value('SELECT count(*) FROM sync.check_invariants()'), 0, 'all invariants hold');

done_testing();
